"""What a stretch of steps makes of a Gaussian before it: the associative elements of a parallel Kalman filter.

Covariances are in units of the observation variance (see `kalman_scan`). If the state before the stretch were known to
be x, the filter after it would have the mean `a x + b` and the gain `c`, and what it observes on the way says
`exp(-x^T e x / 2 - h^T x)` about x. With a mean m and a gain K before it,

    through = (I + K e)^{-1}        K' = c + a through K a^T        m' = b + a through (m - K h)

and two stretches make one (Sarkka and Garcia-Fernandez, "Temporal parallelization of Bayesian smoothers", IEEE TAC
2021). `a` and `b` lie side by side in one tensor, and so do `e` and `h`: then every product serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Maps:
    """One map per row, of `(n, m)` rows and sequences.

    Attributes:
        ab: `a` and, as one more column, `b`, `(n, m, D, D + 1)`.
        c: symmetric, `(n, m, D, D)`.
        eh: `e`, symmetric, and, as one more column, `h`, `(n, m, D, D + 1)`.
    """

    ab: Tensor
    c: Tensor
    eh: Tensor

    def take(self, rows: slice) -> Maps:
        """Some of the rows."""
        return Maps(self.ab[rows], self.c[rows], self.eh[rows])

    def after(self, earlier: Maps) -> Maps:
        """First `earlier`, then `self`."""
        a, before, width = self.ab[..., :-1], earlier.ab[..., :-1], self.c.shape[-1]
        both = _through(earlier.c, self.eh, earlier.c, earlier.ab)
        ahead, seen = a @ both, self.eh[..., :-1] @ both[..., width:]
        seen[..., -1] += self.eh[..., -1]
        ab = ahead[..., width:]
        ab[..., -1] += self.ab[..., -1]
        return Maps(ab, self.c + ahead[..., :width] @ a.mT, earlier.eh + before.mT @ seen)

    def __call__(self, gain: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The gains and means after, given those before, `(n, m, D, D)` and `(n, m, D, 1)`."""
        a = self.ab[..., :-1]
        ahead = a @ _through(gain, self.eh, gain, mean)
        return self.c + ahead[..., :-1] @ a.mT, self.ab[..., -1:] + ahead[..., -1:]

    def before_each(self, gain: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The gains and means before every row and after the last one, given those before the first, `(1, m, ...)`."""
        c, b = self.take(slice(0, 1))(gain, mean)
        known = Maps(
            torch.cat([torch.cat([self.ab[:1, ..., :-1], b], -1), self.ab[1:]]), torch.cat([c, self.c[1:]]), self.eh
        )
        gains, means = known._after_each()
        return torch.cat([gain, gains]), torch.cat([mean, means])

    def _after_each(self) -> tuple[Tensor, Tensor]:
        """The gains and means after each map, where the first is known: an odd-even scan, as in `scan`."""
        n, first = self.c.shape[0], (self.c[:1], self.ab[:1, ..., -1:])
        if n == 1:
            return first
        odd = self.take(slice(1, n, 2)).after(self.take(slice(0, n - 1, 2)))._after_each()
        even = first
        if n > 2:
            later = self.take(slice(2, n, 2))(*(x[: (n - 1) // 2] for x in odd))
            even = tuple(torch.cat(pair) for pair in zip(first, later, strict=True))
        gains, means = (_interleaved(*pair) for pair in zip(even, odd, strict=True))
        return gains, means


def _through(gain: Tensor, eh: Tensor, *right: Tensor) -> Tensor:
    """`(I + K e)^{-1} [right]`, side by side, where `K h` is first taken off the last column."""
    products = gain @ eh
    system, joined = products[..., :-1], torch.cat(right, -1)
    system.diagonal(dim1=-2, dim2=-1).add_(1)
    joined[..., -1] -= products[..., -1]
    return torch.linalg.solve_ex(system, joined)[0]  # not symmetric: with pivots


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    n = odd.shape[0]
    pairs = torch.stack([even[:n], odd], 1).flatten(0, 1)
    return pairs if even.shape[0] == n else torch.cat([pairs, even[n:]])
