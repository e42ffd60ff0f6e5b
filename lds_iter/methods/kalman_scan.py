"""The gains of a Kalman filter for all time steps at once, by a parallel scan over its Riccati recursion.

The filter is that of `d_t = J_t d_{t-1} + r_t + w_t` with noise `w_t` of variance 1, observed as `0 = d_t + v_t` with
noise of variance `1 / q_t`. Its gains do not depend on `r`. In units of the observation variance the covariance of the
filtered state is the gain itself, and the recursion is

    X_t = q_t I + J_t K_{t-1} J_t^T           the predicted covariance
    G_t = (I + X_t)^{-1}                      what the update keeps, I - K_t
    K_t = X_t G_t                             the gain, 0 <= K_t < I

Nothing is subtracted, so `K_t` keeps its relative precision where `1 - G_t` would be rounded away (in float32 from `q`
of 1e-7 on), and `I + X_t`, positive definite, is inverted without pivots.

Several steps together map the covariance before them to the one after them by `K -> C + A K (I + E K)^{-1} A^T`, and
such maps compose associatively (Sarkka and Garcia-Fernandez, "Temporal parallelization of Bayesian smoothers", IEEE
TAC 2021, without the means). `C` is the gain after a certain start, `A` the product of all `G_t J_t` there, `E` what
the steps observe of their start. One step `(J, q)` after `(A, C, E)` costs a step of the recursion and its part of `A`
and `E`; two maps in general need a linear system that is not symmetric. So the rows are cut into blocks of `BLOCK`: the
maps of all blocks, a step at a time; an odd-even scan over blocks; the recursion inside all blocks at once, a step at a
time. Exact but for rounding, in `2 BLOCK + O(log n)` batched steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.scan.transitions import AbstractTransition, BlockDiagonal, Dense, Diagonal

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
    def keep(self, x: Tensor) -> Tensor:
        """`(I + x)^{-1}` of positive semidefinite `x`; of all of `x`, for one that reads a triangle alone would let
        what rounding adds to the other grow."""

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

    def keep(self, x: Tensor) -> Tensor:
        return (1 + x).reciprocal()

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

    def keep(self, x: Tensor) -> Tensor:
        by_entries = x.shape[-1] <= SMALL and x.device.type == "cpu"
        if not by_entries or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.linalg.inv_ex(self.plus(x.clone(), 1))[0]
        planes = x.movedim((-2, -1), (0, 1)).clone(memory_format=torch.contiguous_format)
        planes.diagonal().add_(1)
        return _gauss_jordan(planes).movedim((0, 1), (-2, -1)).contiguous()

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
            self.c + multiply(multiply(self.a, c), transpose(self.a)),
            earlier.e + multiply(transpose(earlier.a), multiply(self.e, a)),
        )

    def __call__(self, before: Tensor, algebra: Algebra) -> Tensor:
        """The gains after, given those before."""
        through = algebra.plus(algebra.multiply(before, self.e), 1)
        (inner,) = algebra.solve(through, before)
        return self.c + algebra.multiply(algebra.multiply(self.a, inner), algebra.transpose(self.a))


@dataclass(frozen=True)
class Steps:
    """What `riccati` finds: `G_t` and `K_t` of the first rows of all blocks, then of the second ones, and so on."""

    keeps: list[Tensor]
    gains: list[Tensor]
    rows: int

    @staticmethod
    def in_order(steps: list[Tensor], rows: int) -> Tensor:
        """One tensor, in the order of time."""
        return torch.stack(steps, 1).flatten(0, 1)[:rows]


def riccati(j: Tensor, q: Tensor, before: Tensor, algebra: Algebra) -> Steps:
    """`G_t` and `K_t` of `n` steps.

    Args:
        j: the matrices `J_t`, `(n, ...)`, as the algebra has them.
        q: the weight of the observations, broadcastable to `j`. Where it is 0 the gain is 0, whatever came before.
        before: `K` before the first step.
    """
    n = j.shape[0]
    length = min(BLOCK, n)
    blocks = -(-n // length)
    in_blocks = [_in_blocks(x, blocks, length) for x in (j.masked_fill(q == 0, 0), q)]
    steps = list(zip(*in_blocks, strict=True))
    gain = before.unsqueeze(0)
    if blocks > 1:
        maps = _block_maps([(j[:-1], q[:-1]) for j, q in steps], algebra)
        gain = gains_before(maps, gain, algebra)
    keeps, gains = [], []
    for j, q in steps:
        keep, gain = _step(j, q, gain, algebra)
        keeps.append(keep)
        gains.append(gain)
    return Steps(keeps, gains, n)


def gains_before(maps: Maps, gain: Tensor, algebra: Algebra) -> Tensor:
    """`K` before each block, given the one before the first, `(1, ...)`, and the maps of all blocks but the last."""
    first = maps.take(slice(0, 1))(gain, algebra)
    maps = Maps(maps.a, torch.cat([first, maps.c[1:]]), maps.e)
    return torch.cat([gain, _after_each(maps, algebra)])


def _in_blocks(x: Tensor, blocks: int, length: int) -> tuple[Tensor, ...]:
    """The first rows of all blocks, then the second ones ...; zeros fill up the last block."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (blocks, length)).transpose(0, 1).contiguous().unbind()


def _step(j: Tensor, q: Tensor, gain: Tensor, algebra: Algebra) -> tuple[Tensor, Tensor]:
    """`G` and `K` of one step of all blocks."""
    predicted = algebra.plus(algebra.multiply(algebra.multiply(j, gain), algebra.transpose(j)), q)
    keep = algebra.keep(predicted)
    return keep, algebra.multiply(predicted, keep)


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
    return Maps(a, c, e)


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
    """The gains of a filter, in the structure of its transitions."""

    structure: type[AbstractTransition]
    cells: list[tuple[Steps, int]]

    @property
    def keep(self) -> AbstractTransition:
        """`G_t = I - K_t`."""
        return self._joined([(steps.keeps, steps.rows, missing) for steps, missing in self.cells])

    @property
    def gain(self) -> AbstractTransition:
        """`K_t`."""
        return self._joined([(steps.gains, steps.rows, missing) for steps, missing in self.cells])

    def _joined(self, cells: list[tuple[list[Tensor], int, int]]) -> AbstractTransition:
        parts = [Steps.in_order(steps, rows)[missing:] for steps, rows, missing in cells]
        return self.structure(parts[0] if len(parts) == 1 else torch.cat(parts))  # pyright: ignore[reportCallIssue]


def kalman_gains(transition: AbstractTransition, q: Tensor, cells: list[tuple[slice, int]]) -> Gains:
    """The gains for all rows, from a covariance of 0 before the first.

    Args:
        transition: the matrices `J_t`, as `Dense`, `BlockDiagonal` or `Diagonal`.
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
        part_j, part_q = (headed(x[rows], missing) for x in (j, q))
        steps = riccati(part_j, part_q, before, algebra)
        found.append((steps, missing))
        before = Steps.in_order(steps.gains, steps.rows)[-1] if len(cells) > 1 else before
    return Gains(type(transition), found)


def headed(x: Tensor, missing: int) -> Tensor:
    """`x` with zeros for some missing rows before its first."""
    return torch.cat([x.new_zeros(missing, *x.shape[1:]), x]) if missing else x
