"""The gains of a Kalman filter for all time steps at once, by a parallel scan over its Riccati recursion.

The filter is that of `d_t = J_t d_{t-1} + r_t + w_t` with noise `w_t` of variance 1, observed as `0 = d_t + v_t` with
noise of variance `1 / q_t`. Its gains do not depend on `r`. In units of the observation variance the covariance of the
filtered state is the gain itself, and the recursion is

    X_t = q_t I + J_t K_{t-1} J_t^T           the predicted covariance
    G_t = (I + X_t)^{-1}                      what the update keeps, I - K_t
    K_t = X_t G_t                             the gain, 0 <= K_t < I

Nothing is subtracted: `K_t` keeps its relative precision where `1 - G_t` would be rounded away (in float32 from `q` of
1e-7 on), and `I + X_t` is positive definite whatever the rounding, which a Cholesky factor needs.

Several steps together map the covariance before them to the one after them by `K -> C + A K (I + E K)^{-1} A^T`, and
such maps compose associatively (Sarkka and Garcia-Fernandez, "Temporal parallelization of Bayesian smoothers", IEEE
TAC 2021, without the means). `C` is the gain after a certain start, `A` the product of all `G_t J_t` there, `E` what the
steps observe of their start. One step `(J, q)` after `(A, C, E)` costs no more than a step of the recursion and its part
of `A` and `E`; two maps in general need a linear system that is not symmetric. So the rows are cut into blocks of
`BLOCK`: the maps of all blocks, a step at a time; an odd-even scan over blocks; the recursion inside all blocks at
once, a step at a time. Exact but for rounding, in `2 BLOCK + O(log n)` batched steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.transitions import AbstractTransition, BlockDiagonal, Dense, Diagonal

BLOCK = 16
"""Rows per block. Longer ones leave fewer general compositions, each several times a step, and call more operations."""


SMALL = 16
"""Up to this size a CPU inverts matrices entry by entry, on one contiguous plane for each; LAPACK takes longer."""


class Algebra(ABC):
    """The few operations on matrices that the recursion needs, so that it stands once for all structures."""

    @abstractmethod
    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        """`a` and a multiple of the identity, in the memory of `a`."""

    @abstractmethod
    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """`a b`."""

    @abstractmethod
    def transpose(self, a: Tensor) -> Tensor:
        """`a^T`."""

    @abstractmethod
    def symmetric(self, a: Tensor) -> Tensor:
        """`a` made symmetric, which it is but for rounding."""

    @abstractmethod
    def inverse(self, a: Tensor) -> Tensor:
        """`a^{-1}` of a symmetric `a` with eigenvalues of at least 1."""

    @abstractmethod
    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        """`a^{-1} b` for every `b` in `right`; `a` need not be symmetric."""


class Entries(Algebra):
    """Diagonal matrices, given by their diagonals `(..., D)`."""

    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        return a.add_(number)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def transpose(self, a: Tensor) -> Tensor:
        return a

    def symmetric(self, a: Tensor) -> Tensor:
        return a

    def inverse(self, a: Tensor) -> Tensor:
        return a.reciprocal()

    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        return tuple(b / a for b in right)


class Matrices(Algebra):
    """Full matrices `(..., D, D)`."""

    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        a.diagonal(dim1=-2, dim2=-1).add_(number.squeeze(-1) if isinstance(number, Tensor) else number)
        return a

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def transpose(self, a: Tensor) -> Tensor:
        return a.mT

    def symmetric(self, a: Tensor) -> Tensor:
        return (a + a.mT).mul_(0.5)

    def inverse(self, a: Tensor) -> Tensor:
        if torch.is_grad_enabled() or a.device.type != "cpu":
            return torch.linalg.inv_ex(a)[0]
        if a.shape[-1] <= SMALL:
            planes = a.movedim((-2, -1), (0, 1)).clone(memory_format=torch.contiguous_format)
            return _gauss_jordan(planes).movedim((0, 1), (-2, -1)).contiguous()
        factor, failed = torch.linalg.cholesky_ex(a)  # fails where `a` holds NaN or the rounding of huge numbers
        return torch.cholesky_inverse(factor.masked_fill((failed > 0)[..., None, None], torch.nan))

    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        return torch.linalg.solve_ex(a, torch.cat(right, -1))[0].split(a.shape[-1], -1)


def _gauss_jordan(m: Tensor) -> Tensor:
    """`m[i, j]`, the entries of positive definite matrices, to those of their inverses, in place; needs no pivots."""
    for k in range(m.shape[0]):
        pivot = m[k, k].reciprocal()
        row, column = m[k] * pivot, m[:, k].clone()
        m.addcmul_(column.unsqueeze(1), row, value=-1)
        m[k] = row
        torch.mul(column, -pivot, out=m[:, k])
        m[k, k] = pivot
    return m


@dataclass(frozen=True)
class Maps:
    """Maps `K -> C + A K (I + E K)^{-1} A^T`, one per row; `C` and `E` symmetric."""

    a: Tensor
    c: Tensor
    e: Tensor

    def take(self, rows: slice) -> Maps:
        return Maps(self.a[rows], self.c[rows], self.e[rows])

    def after(self, earlier: Maps, algebra: Algebra) -> Maps:
        """First `earlier`, then `self`."""
        multiply, transpose = algebra.multiply, algebra.transpose
        through = algebra.plus(multiply(earlier.c, self.e), 1)
        a, c = algebra.solve(through, earlier.a, earlier.c)
        return Maps(
            multiply(self.a, a),
            self.c + algebra.symmetric(multiply(multiply(self.a, c), transpose(self.a))),
            earlier.e + algebra.symmetric(multiply(transpose(earlier.a), multiply(self.e, a))),
        )

    def __call__(self, before: Tensor, algebra: Algebra) -> Tensor:
        """The gains after, given those before."""
        through = algebra.plus(algebra.multiply(before, self.e), 1)
        (inner,) = algebra.solve(through, before)
        spread = algebra.multiply(algebra.multiply(self.a, inner), algebra.transpose(self.a))
        return self.c + algebra.symmetric(spread)


def riccati(j: Tensor, q: Tensor, before: Tensor, algebra: Algebra) -> tuple[Tensor, Tensor]:
    """`G_t` and `K_t` of `n` steps.

    Args:
        j: the matrices `J_t`, `(n, ...)`, as the algebra has them.
        q: the weight of the observations, broadcastable to `j`.
        before: `K` before the first step.
    """
    n = j.shape[0]
    length = min(BLOCK, n)
    blocks = -(-n // length)
    steps = [_in_blocks(x.expand(n, *x.shape[1:]), blocks, length) for x in (j, q)]
    gain = before.unsqueeze(0)
    if blocks > 1:
        maps = _block_maps([(j[:-1], q[:-1]) for j, q in zip(*steps, strict=True)], algebra)
        first = Maps(maps.a[:1], maps.take(slice(0, 1))(gain, algebra), maps.e[:1])
        maps = Maps(maps.a, torch.cat([first.c, maps.c[1:]]), maps.e)
        gain = torch.cat([gain, _after_each(maps, algebra)])
    keeps, gains = [], []
    for j, q in zip(*steps, strict=True):
        keep, gain = _step(j, q, gain, algebra)
        keeps.append(keep)
        gains.append(gain)
    keep, gain = (torch.stack(x, 1).flatten(0, 1)[:n] for x in (keeps, gains))
    return keep, gain


def _in_blocks(x: Tensor, blocks: int, length: int) -> Iterable[Tensor]:
    """The first rows of all blocks, then the second ones ...; zeros fill up the last block."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (blocks, length)).transpose(0, 1).contiguous().unbind()


def _step(j: Tensor, q: Tensor, gain: Tensor, algebra: Algebra) -> tuple[Tensor, Tensor]:
    """`G` and `K` of one step of all blocks."""
    predicted = algebra.plus(algebra.multiply(algebra.multiply(j, gain), algebra.transpose(j)), q)
    keep = algebra.inverse(algebra.plus(predicted.clone(), 1))
    return keep, algebra.symmetric(algebra.multiply(predicted, keep))


def _block_maps(steps: list[tuple[Tensor, Tensor]], algebra: Algebra) -> Maps:
    """The maps of whole blocks, their steps composed one by one."""
    multiply, transpose = algebra.multiply, algebra.transpose
    (j, q), *rest = steps
    a = j / (1 + q)
    c, e = algebra.plus(torch.zeros_like(j), q / (1 + q)), multiply(transpose(j), a)
    for j, q in rest:
        keep, c = _step(j, q, c, algebra)
        ahead = multiply(j, a)
        a = multiply(keep, ahead)
        e = e + multiply(transpose(ahead), a)
    return Maps(a, c, algebra.symmetric(e))


def _after_each(maps: Maps, algebra: Algebra) -> Tensor:
    """The gains after each map, where those before the first are 0: an odd-even scan, as in `scan`."""
    n, c = maps.c.shape[0], maps.c
    if n == 1:
        return c
    odd = _after_each(maps.take(slice(1, n, 2)).after(maps.take(slice(0, n - 1, 2)), algebra), algebra)
    even = torch.cat([c[:1], maps.take(slice(2, n, 2))(odd[: (n - 1) // 2], algebra)]) if n > 2 else c[:1]
    pairs = torch.stack([even[: n // 2], odd], 1).flatten(0, 1)
    return pairs if n % 2 == 0 else torch.cat([pairs, even[-1:]])


@dataclass(frozen=True)
class Gains:
    """The gains of a filter, in the structure of its transitions.

    Attributes:
        keep: `G_t = I - K_t`.
        gain: `K_t`.
    """

    keep: AbstractTransition
    gain: AbstractTransition


def kalman_gains(transition: AbstractTransition, q: Tensor, cells: list[tuple[slice, int]]) -> Gains:
    """The gains for all rows, from a covariance of 0 before the first.

    Args:
        transition: the matrices `J_t`, as `Dense`, `BlockDiagonal` or `Diagonal`; zero where `K_t` shall be 0.
        q: the weight of the observations, 1 / sigma^2, `(n, *batch, 1)`; zero where `K_t` shall be 0.
        cells: how to split the scan, see `Linearization.cells`.
    """
    match transition:
        case Diagonal(j):
            algebra = Entries()
        case Dense(j):
            algebra, q = Matrices(), q.unsqueeze(-1)
        case BlockDiagonal(j):
            algebra, q = Matrices(), q[..., None, None]
        case _:
            raise TypeError(f"Dense, BlockDiagonal or Diagonal expected, got {type(transition).__name__}.")
    found, before = [], torch.zeros_like(j[0])
    for rows, missing in cells:
        part = [_headed(x[rows], missing) for x in (j, q)]
        keep, gain = riccati(part[0], part[1], before, algebra)
        found.append((keep[missing:], gain[missing:]))
        before = gain[-1]
    keep, gain = (x[0] if len(x) == 1 else torch.cat(x) for x in zip(*found, strict=True))
    return Gains(type(transition)(keep), type(transition)(gain))  # pyright: ignore[reportCallIssue]


def _headed(x: Tensor, missing: int) -> Tensor:
    return torch.cat([x.new_zeros(missing, *x.shape[1:]), x]) if missing else x
