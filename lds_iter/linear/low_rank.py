"""Diagonal plus low rank, `A = diag(d) + U V^T`: delta rules, Householder products, gates along one direction.

With `d = 1`, `U = -beta k` and `V = k` this is the identity minus rank one of DeltaNet (Schlag, Irie, Schmidhuber:
"Linear transformers are secretly fast weight programmers", 2021) and of SwiLA.

A product of two such matrices has the same form and the sum of the ranks:

    (D1 + U1 V1^T) (D2 + U2 V2^T) = D1 D2 + [D1 U2, U1] [V2, (D2 + V2 U2^T) V1]^T

This is the WY form of Bischof and Van Loan ("The WY representation for products of Householder matrices", 1987), with
a diagonal that is not the identity. Nothing is divided by, so zeros in `d`, and numbers above 1, are as good as others.
The scan doubles stretches of time as every odd-even scan does. A stretch of 2^l steps has rank 2^l r, so all stretches
of a level hold T D r numbers; when the rank reaches D / 2, the remaining `2 T r / D` matrices become dense, which again
is T D r numbers. So the scan needs O(T D r log(D / r)) memory in place of T D^2, and O(T D^2 r) work in place of
T D^3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.linear.linear_scan import diagonal_scan, odd_even, reference_scan
from lds_iter.linear.registry import kernel_of, register_scan
from lds_iter.linear.transitions import AbstractTransition, Dense, Diagonal, Factor, take, times


@dataclass(frozen=True)
class LowRank(AbstractTransition):
    """A diagonal plus a matrix of low rank per step, `diag(d) + U V^T`.

    Attributes:
        diagonal: `(n, *batch, D)`. For the identity type `torch.ones(()).expand(n, *batch, D)`, which takes no memory.
        u, v: `(n, *batch, D, r)`, with a small rank r, 0 or more.

    Raises:
        ValueError: when the shapes do not fit each other.

    Example:
        >>> k = torch.nn.functional.normalize(torch.randn(100, 8), dim=-1).unsqueeze(-1)
        >>> delta_rule = li.LowRank(torch.ones(100, 8), -0.5 * k, k)
        >>> li.linear_scan(delta_rule, torch.randn(100, 8)).shape
        torch.Size([100, 8])
    """

    diagonal: Tensor
    u: Tensor
    v: Tensor

    def __post_init__(self) -> None:
        d, u, v = (tuple(leaf.shape) for leaf in (self.diagonal, self.u, self.v))
        alike = len(u) == len(v) == len(d) + 1 and u[-2:] == v[-2:]
        if not alike or u[-2] != d[-1]:
            raise ValueError(
                "`LowRank(diagonal, u, v)` takes a diagonal (n, *batch, D), u and v of one shape (n, *batch, D, r), "
                f"got {d}, {u} and {v}. For rank 1 type `u.unsqueeze(-1)`, `v.unsqueeze(-1)`."
            )

    @property
    def rank(self) -> int:
        """The columns of `u` and `v`."""
        return self.u.shape[-1]

    def mv(self, x: Tensor) -> Tensor:
        along = (self.v * x.unsqueeze(-1)).sum(-2, keepdim=True)
        return self.diagonal * x + (self.u * along).sum(-1)

    def after(self, earlier: Any) -> LowRank:
        mine, his = self.diagonal.unsqueeze(-1), earlier.diagonal.unsqueeze(-1)
        back = his * self.v + earlier.v @ (earlier.u.mT @ self.v)  # what `self` reads, before the earlier step
        u, v = _beside(mine * earlier.u, self.u), _beside(earlier.v, back)
        product = LowRank(self.diagonal * earlier.diagonal, u, v)
        return product if product.rank <= u.shape[-2] else product._of_rank_d()

    def transpose(self) -> LowRank:
        return LowRank(self.diagonal, self.v, self.u)

    def scaled(self, factor: Factor) -> LowRank:
        v = times((factor != 0).to(self.v.dtype), self.v) if isinstance(factor, Tensor) and factor.ndim else self.v
        return LowRank(times(factor, self.diagonal), times(factor, self.u), v)

    def matrices(self) -> Dense:
        """The same in full, `(n, *batch, D, D)`."""
        return Dense(torch.diag_embed(self.diagonal) + self.u @ self.v.mT)

    def _of_rank_d(self) -> LowRank:
        """The same with D columns, which hold every matrix: what repeated products end in."""
        eye = torch.eye(self.u.shape[-2], dtype=self.u.dtype, device=self.u.device)
        product = self.u @ self.v.mT
        return LowRank(self.diagonal, product, eye.expand(product.shape))


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """The columns of both, where the batch of either may be 1."""
    lead = torch.broadcast_shapes(one.shape[:-1], other.shape[:-1])
    return torch.cat([one.expand(*lead, one.shape[-1]), other.expand(*lead, other.shape[-1])], -1)


@register_scan(LowRank)
def low_rank_scan(transition: LowRank, x: Tensor, initial: Tensor | None = None) -> None:
    """The odd-even scan, whose last levels are dense; reference: `reference_scan`."""
    check_low_rank(transition, x)
    if initial is not None:
        x[:1] += take(transition, slice(0, 1)).mv(initial.unsqueeze(0))
    _halved(transition, x)


def check_low_rank(transition: LowRank, x: Tensor) -> None:
    """Check that a transition is for states of the width and dtype of `x`, `(n, *batch, D)`.

    Raises:
        TypeError, ValueError: where it is not.
    """
    if transition.diagonal.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"`LowRank` has width D = {transition.diagonal.shape[-1]}, and the states have {x.shape[-1]}: its diagonal "
            f"must have shape {tuple(x.shape)}."
        )
    found = {leaf.dtype for leaf in (transition.diagonal, transition.u, transition.v)}
    if found != {x.dtype}:
        raise TypeError(
            f"`LowRank` must have tensors of {x.dtype} like the states, got {sorted(map(str, found))}. Type "
            "`a.to(lin.residual)`; for transitions in fewer bits there is li.LowPrecision."
        )


def _halved(transition: LowRank, x: Tensor) -> None:
    """The levels of the scan; those of a high rank are dense."""
    n, width, rank = x.shape[0], x.shape[-1], transition.rank
    if rank == 0:
        return diagonal_scan(Diagonal(transition.diagonal), x, None)
    if n > 3 and 2 * rank >= width:
        scan = kernel_of(Dense, x.device.type).forward or reference_scan
        return scan(transition.matrices(), x, None)
    return odd_even(transition, x, _halved)
