"""Norms of operators on whole trajectories, by Golub-Kahan-Lanczos bidiagonalization.

The matrices of the theory, `(T D) x (T D)`, are never formed. The inverse of `I - A L` (`L` shifts a trajectory by one
step) is one `linear_scan`, and its transpose one reversed scan, so their largest singular value takes two scans a step;
10 to 30 steps are the rule. (Golub, Kahan 1965; with full reorthogonalization.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import AbstractTransition, map_leaves

LinearMap = Callable[[Tensor], Tensor]

SETTLED = 1e-6
"""The iteration stops when the norm has grown by less than this fraction: it approaches the norm from below, so what it
returns is a lower bound, in practice to about this accuracy."""


@dataclass(frozen=True)
class Inverse:
    """`(I - A L)^-1` and its transpose as scans; the first row's `A` plays no part.

    Attributes:
        transition: `A_t`, `(n, ...)`.
    """

    transition: AbstractTransition

    def apply(self, b: Tensor) -> Tensor:
        """Solve `x_t - A_t x_{t-1} = b_t`, `(n, *batch, D)`."""
        return linear_scan(self.transition, b)

    def transposed(self, b: Tensor) -> Tensor:
        """Solve `x_t - A_{t+1}^T x_{t+1} = b_t`, `(n, *batch, D)`."""
        # The last row has no successor; the matrix that stands in its place meets zeros.
        shifted = map_leaves(lambda leaf: torch.cat([leaf[1:], leaf[:1]]), self.transition.transpose())
        return linear_scan(shifted, b, reverse=True)


def in_float64(transition: AbstractTransition) -> AbstractTransition:
    """The same matrices in double precision."""
    return map_leaves(lambda leaf: leaf.double(), transition)


def norm(apply: LinearMap, transposed: LinearMap, like: Tensor, *, limit: int = 60, seed: int = 0) -> Tensor:
    """The largest singular value of a linear operator on trajectories, of every sequence by itself.

    Args:
        apply: the operator, `(n, *batch, D)` to the same shape, in float64.
        transposed: its transpose.
        like: a tensor `(n, *batch, D)` that gives shape and device.
        limit: the largest number of steps.
        seed: of the random start.

    Returns:
        `(*batch)`, float64; infinity where it exceeds that format.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(like.shape[0], like.shape[-1], generator=generator, dtype=torch.float64, device="cpu")
    start = start.to(like.device)
    start = start.view(like.shape[0], *[1] * (like.ndim - 2), like.shape[-1]).expand(like.shape)
    right, left = [_unit(start)[0]], []
    diagonal, above = [], []
    best = like.new_zeros(like.shape[1:-1], dtype=torch.float64)
    for _ in range(min(limit, like.shape[0] * like.shape[-1])):
        u, alpha = _unit(_orthogonal(apply(right[-1]), left))
        left.append(u)
        v, beta = _unit(_orthogonal(transposed(u), right))
        right.append(v)
        diagonal.append(alpha)
        above.append(beta)
        before, best = best, _bidiagonal_norm(diagonal, above)
        if bool(((best - before <= SETTLED * best) | ~best.isfinite()).all()):
            break
    return best


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` of norm 1 for each sequence, and its norm, `(*batch)`; computed so that squares do not overflow."""
    peak = x.abs().amax((0, -1), keepdim=True)
    scaled = x / torch.where(peak > 0, peak, 1)
    length = scaled.square().sum((0, -1), keepdim=True).sqrt()
    return scaled / torch.where(length > 0, length, 1), (peak * length)[0, ..., 0]


def _orthogonal(x: Tensor, basis: list[Tensor]) -> Tensor:
    for _ in range(2):  # once is not enough in floating point
        for v in basis:
            x = x - (x * v).sum((0, -1), keepdim=True) * v
    return x


def _bidiagonal_norm(diagonal: list[Tensor], above: list[Tensor]) -> Tensor:
    """The largest singular value of the upper bidiagonal matrix, `(*batch)`; infinity where it is not finite."""
    k = len(diagonal)
    matrix = diagonal[0].new_zeros(*diagonal[0].shape, k, k + 1)
    for i in range(k):
        matrix[..., i, i], matrix[..., i, i + 1] = diagonal[i], above[i]
    size = matrix.abs().amax((-2, -1))
    finite = size.isfinite()
    scale = torch.where(finite & (size > 0), size, 1)[..., None, None]
    values = torch.linalg.matrix_norm(torch.where(finite[..., None, None], matrix / scale, 0), ord=2)
    return torch.where(finite, values * scale[..., 0, 0], torch.inf)
