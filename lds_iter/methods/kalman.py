"""The gains of a Kalman filter for all time steps at once, by a parallel scan over its Riccati recursion.

The filter is that of `d_t = J_t d_{t-1} + r_t + w_t` with noise `w_t` of variance 1, observed as `0 = d_t + v_t` with
noise of variance `1 / q_t`. Its gains do not depend on `r`. In units of the observation variance the covariance of the
filtered state is the gain itself, and the recursion is

    X_t = q_t I + J_t K_{t-1} J_t^T           the predicted covariance
    G_t = (I + X_t)^{-1}                      I - K_t, the factor of the update
    K_t = X_t G_t                             the gain, 0 <= K_t < I

Nothing is subtracted, so `K_t` keeps its relative precision where `1 - G_t` would be rounded away (in float32 from `q`
of 1e-7 on), and `I + X_t` is positive definite. The gains are all that is scanned here: with them the estimates of
filter and smoother are linear recurrences, which `linear_scan` solves (see `levenberg_marquardt`).

Several steps together map the covariance before them to the one after them by `K -> C + A K (I + E K)^{-1} A^T`, and
such maps compose associatively (Sarkka and Garcia-Fernandez, "Temporal parallelization of Bayesian smoothers", IEEE
TAC 2021, without the means). `C` is the gain after a certain start, `A` the product of all `G_t J_t` there, `E` what
the steps observe of their start. One step `(J, q)` after `(A, C, E)` costs a step of the recursion and its part of `A`
and `E`; two maps in general need a linear system that is not symmetric. So the rows are cut into blocks of `BLOCK`: the
maps of all blocks, a step at a time; an odd-even scan over blocks; the recursion inside all blocks at once, a step at a
time. Exact but for rounding, in `2 BLOCK + O(log n)` batched steps, and differentiable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linear.transitions import BlockDiagonal, Dense, Diagonal

BLOCK = 16
"""Rows per block. Longer blocks need fewer compositions of two maps, each as expensive as several steps, but more
batched steps."""

Gainable = Dense | BlockDiagonal | Diagonal
"""The structures whose gains have the same structure."""


class Algebra(ABC):
    """The matrix operations that the recursion needs. With them it is written once for all structures."""

    @abstractmethod
    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        """`a + number I`."""

    @abstractmethod
    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """`a b`."""

    @abstractmethod
    def transpose(self, a: Tensor) -> Tensor:
        """`a^T`."""

    @abstractmethod
    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        """`a^{-1} b` for every `b` in `right`; `a` need not be symmetric."""

    @abstractmethod
    def inverse(self, a: Tensor) -> Tensor:
        """`a^{-1}`. Both triangles are read; reading one alone would amplify rounding errors that are not symmetric."""


class Entries(Algebra):
    """Diagonal matrices, given by their diagonals `(..., D)`."""

    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        return a + number

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def transpose(self, a: Tensor) -> Tensor:
        return a

    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        return tuple(b / a for b in right)

    def inverse(self, a: Tensor) -> Tensor:
        return a.reciprocal()


class Matrices(Algebra):
    """Full matrices `(..., D, D)`."""

    def plus(self, a: Tensor, number: Tensor | float) -> Tensor:
        return a + number * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def transpose(self, a: Tensor) -> Tensor:
        return a.mT

    def solve(self, a: Tensor, *right: Tensor) -> tuple[Tensor, ...]:
        return torch.linalg.solve_ex(a, torch.cat(right, -1))[0].split(a.shape[-1], -1)

    def inverse(self, a: Tensor) -> Tensor:
        return torch.linalg.inv_ex(a)[0]


@dataclass(frozen=True)
class CovarianceMaps:
    """Maps `K -> C + A K (I + E K)^{-1} A^T`, one per row; `C` and `E` symmetric."""

    a: Tensor
    c: Tensor
    e: Tensor

    def take(self, rows: slice) -> CovarianceMaps:
        """Some of the rows."""
        return CovarianceMaps(self.a[rows], self.c[rows], self.e[rows])

    def beside(self, later: CovarianceMaps) -> CovarianceMaps:
        """The rows of both."""
        pairs = (self.a, later.a), (self.c, later.c), (self.e, later.e)
        return CovarianceMaps(*(torch.cat(pair) for pair in pairs))

    def starting(self, gain: Tensor, algebra: Algebra) -> CovarianceMaps:
        """The same with a first map that gives what it makes of this gain, `(1, ...)`, whatever it is given."""
        after = self.take(slice(0, 1))(gain, algebra)
        nothing = torch.zeros_like(after)
        return CovarianceMaps(nothing, after, nothing).beside(self.take(slice(1, None)))

    def after(self, earlier: CovarianceMaps, algebra: Algebra) -> CovarianceMaps:
        """First `earlier`, then `self`."""
        multiply, transpose = algebra.multiply, algebra.transpose
        a, c = algebra.solve(algebra.plus(multiply(earlier.c, self.e), 1), earlier.a, earlier.c)
        return CovarianceMaps(
            multiply(self.a, a),
            self.c + multiply(multiply(self.a, c), transpose(self.a)),
            earlier.e + multiply(transpose(earlier.a), multiply(self.e, a)),
        )

    def __call__(self, before: Tensor, algebra: Algebra) -> Tensor:
        """The gains after the steps of each map, given those before them."""
        (inner,) = algebra.solve(algebra.plus(algebra.multiply(before, self.e), 1), before)
        return self.c + algebra.multiply(algebra.multiply(self.a, inner), algebra.transpose(self.a))


FromEarlier = Callable[..., list[Tensor]]
"""From some tensors to what each process that holds earlier rows gave for them, `(k, *shape)`."""


def kalman_gains(transition: Gainable, q: Tensor, from_earlier: FromEarlier | None = None) -> tuple[Gainable, Gainable]:
    """`G_t = I - K_t` and `K_t` for all rows, from a covariance of 0 before the first.

    Args:
        transition: the matrices `J_t`.
        q: the weight of the observations, 1 / sigma^2, `(n, *batch, 1)`; where it is 0, `K_t` is 0, whatever came
            before.
        from_earlier: brings the maps of the rows that other processes hold; None where this one holds all.

    Returns:
        Two transitions of the same structure.
    """
    match transition:
        case Diagonal(j):
            algebra: Algebra = Entries()
        case Dense(j):
            algebra, q = Matrices(), q.unsqueeze(-1)
        case BlockDiagonal(j):
            algebra, q = Matrices(), q[..., None, None]
    keep, gain = _riccati(j.masked_fill(q == 0, 0), q, algebra, from_earlier)
    return type(transition)(keep), type(transition)(gain)


def _riccati(j: Tensor, q: Tensor, algebra: Algebra, from_earlier: FromEarlier | None) -> tuple[Tensor, Tensor]:
    """`G_t` and `K_t`, `(n, ...)`."""
    n = j.shape[0]
    length = min(BLOCK, n)
    blocks = -(-n // length)
    steps = list(zip(*[_in_blocks(x, blocks, length) for x in (j, q)], strict=True))
    gain = torch.zeros_like(j[:1])
    if from_earlier is not None:
        maps = _block_maps(steps, algebra, of_last=n - (blocks - 1) * length)
        gain = _gain_before(maps, gain, algebra, from_earlier)
        if blocks > 1:
            gain = torch.cat([gain, _gains_after_each(maps.take(slice(0, -1)).starting(gain, algebra), algebra)])
    elif blocks > 1:
        maps = _block_maps([(j[:-1], q[:-1]) for j, q in steps], algebra, of_last=length)
        gain = torch.cat([gain, _gains_after_each(maps, algebra)])
    keeps, gains = [], []
    for j, q in steps:
        keep, gain = _step(j, q, gain, algebra)
        keeps.append(keep)
        gains.append(gain)
    keep, gain = (torch.stack(rows, 1).flatten(0, 1)[:n] for rows in (keeps, gains))
    return keep, gain


def _gain_before(maps: CovarianceMaps, nothing: Tensor, algebra: Algebra, from_earlier: FromEarlier) -> Tensor:
    """The gain before the first of these rows, `(1, ...)`, where other processes hold those before it."""
    n = maps.c.shape[0]
    while n > 1:
        pairs = maps.take(slice(1, n, 2)).after(maps.take(slice(0, n - 1, 2)), algebra)
        maps = pairs if n % 2 == 0 else pairs.beside(maps.take(slice(n - 1, n)))
        n = -(-n // 2)
    earlier = CovarianceMaps(*(part.squeeze(1) for part in from_earlier(maps.a, maps.c, maps.e)))
    return _gains_after_each(earlier, algebra)[-1:] if len(earlier.c) else nothing


def _in_blocks(x: Tensor, blocks: int, length: int) -> tuple[Tensor, ...]:
    """The first rows of all blocks, then the second ones, and so on; zeros fill up the last block."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (blocks, length)).transpose(0, 1).contiguous().unbind()


def _step(j: Tensor, q: Tensor, gain: Tensor, algebra: Algebra) -> tuple[Tensor, Tensor]:
    """`G` and `K` of one step of all blocks."""
    predicted = algebra.plus(algebra.multiply(algebra.multiply(j, gain), algebra.transpose(j)), q)
    keep = algebra.inverse(algebra.plus(predicted, 1))
    return keep, algebra.multiply(predicted, keep)


def _block_maps(steps: list[tuple[Tensor, Tensor]], algebra: Algebra, of_last: int) -> CovarianceMaps:
    """The maps of whole blocks, their steps composed one by one; of the last block the first `of_last` steps."""
    multiply, transpose = algebra.multiply, algebra.transpose
    (j, q), *rest = steps
    a = j / (1 + q)
    c, e = algebra.plus(torch.zeros_like(j), q / (1 + q)), multiply(transpose(j), a)
    last = CovarianceMaps(a, c, e).take(slice(-1, None))
    for number, (j, q) in enumerate(rest, start=2):
        keep, c = _step(j, q, c, algebra)
        ahead = multiply(j, a)
        a = multiply(keep, ahead)
        e = e + multiply(transpose(ahead), a)
        if number == of_last:
            last = CovarianceMaps(a, c, e).take(slice(-1, None))
    return CovarianceMaps(a, c, e).take(slice(0, -1)).beside(last)


def _gains_after_each(maps: CovarianceMaps, algebra: Algebra) -> Tensor:
    """The gains after each map, where those before the first are 0: an odd-even scan, as in `scan`."""
    n, c = maps.c.shape[0], maps.c
    if n == 1:
        return c
    pairs = maps.take(slice(1, n, 2)).after(maps.take(slice(0, n - 1, 2)), algebra)
    odd = _gains_after_each(pairs, algebra)
    even = torch.cat([c[:1], maps.take(slice(2, n, 2))(odd[: (n - 1) // 2], algebra)]) if n > 2 else c[:1]
    both = torch.stack([even[: n // 2], odd], 1).flatten(0, 1)
    return both if n % 2 == 0 else torch.cat([both, even[-1:]])
