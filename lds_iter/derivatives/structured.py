"""Derivatives of a recurrence whose Jacobian has a structure: the transition says it all.

`Newton` takes the structure as it is, with its own scan: a diagonal, blocks, a diagonal plus low rank, or a transition
of the user's. So exact Newton costs what that structure costs, at any width. Published for one structure at a time, as
cells that are diagonal or 2 x 2 by design (Danieli et al.: "ParaRNN", ICLR 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives, ElementwiseDerivatives
from lds_iter.derivatives.pullback import value_and_pullback
from lds_iter.derivatives.refusals import refusals_of
from lds_iter.linear.low_rank import LowRank
from lds_iter.linear.transitions import AbstractTransition, BlockDiagonal, Diagonal


@dataclass(frozen=True)
class StructuredDerivatives(AbstractDerivatives):
    """For an `f` whose Jacobian is a transition of known structure.

    Attributes:
        value: `f(s, u)`, `(n, *batch, D)`.
        transition: `J_t` for all rows, such as `LowRank(diagonal, u, v)`.

    Raises:
        TypeError: when `transition` is none.
    """

    value: Tensor
    transition: AbstractTransition

    def __post_init__(self) -> None:
        if not isinstance(self.transition, AbstractTransition):
            raise TypeError(
                "`transition` must say what structure the Jacobian has, such as li.Diagonal(slopes), "
                f"li.BlockDiagonal(blocks) or li.LowRank(diagonal, u, v), got {type(self.transition).__name__}."
            )

    def jvp(self, v: Tensor) -> Tensor:
        return self.transition.mv(v)

    def vjp(self, w: Tensor) -> Tensor:
        return self.transition.transpose().mv(w)

    def jacobian(self) -> Tensor:
        return self.transition.dense(self.value).matrix

    def diagonal(self) -> Tensor:
        if isinstance(self.transition, Diagonal):
            return self.transition.diagonal.expand_as(self.value)
        if isinstance(self.transition, LowRank):
            plus = (self.transition.u * self.transition.v).sum(-1)
            return (self.transition.diagonal + plus).expand_as(self.value)
        return self.block_diagonal(1)[..., 0, 0]

    def block_diagonal(self, size: int) -> Tensor:
        rows = []  # column j of the matrix meets row i of its own block alone
        for j, column in enumerate(torch.eye(self.value.shape[-1], dtype=self.value.dtype, device=self.value.device)):
            product = self.transition.mv(column.expand_as(self.value))
            rows.append(product[..., j // size * size : j // size * size + size])
        return torch.stack(rows, -2).unflatten(-2, (-1, size)).mT


def structure_of(derivatives: AbstractDerivatives) -> AbstractTransition | None:
    """The whole Jacobian in the structure that a recurrence has declared; None where it has declared none."""
    if isinstance(derivatives, StructuredDerivatives):
        return derivatives.transition
    return Diagonal(derivatives.slope) if isinstance(derivatives, ElementwiseDerivatives) else None


def blockwise(f: Callable[[Tensor, Any], Tensor], s: Tensor, inputs: Any, size: int = 1) -> StructuredDerivatives:
    """The derivatives of an `f` whose Jacobian has blocks of `size` along its diagonal, and nothing else.

    For the `linearize` of a recurrence whose coordinates act in groups of `size` neighbours, or by themselves: `size`
    reverse-mode products give all blocks, where a plain function takes D. What lies outside of the blocks is not
    seen; `li.testing.check_derivatives` finds it.

    Args:
        f: `(s, u) -> s`, the recurrence itself or its step.
        s: the states to take derivatives at, `(n, *batch, D)`.
        inputs: of these rows.
        size: of the blocks, a divisor of D.

    Returns:
        The derivatives, with a `Diagonal` for blocks of one number, else a `BlockDiagonal`.

    Raises:
        ValueError: when `size` does not divide D.

    Example:
        >>> class Leaky:
        ...     def __call__(self, s, u):
        ...         return 0.5 * torch.sin(s) + u
        ...
        ...     def linearize(self, s, u):
        ...         return li.blockwise(self, s, u)
        >>> li.solve(Leaky(), torch.zeros(256), torch.randn(100, 256), li.Newton()).converged
        True
    """
    width = s.shape[-1]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or width % size:
        raise ValueError(f"`size` must be a whole number that divides the state's width D = {width}, got {size!r}.")
    value, pull = value_and_pullback(lambda s: f(s, inputs), s, refusals_of(f))
    # A one at place i of every block: the product is row i of every block.
    seeds = torch.eye(size, dtype=s.dtype, device=s.device).repeat(1, width // size)
    rows = [pull(seed.expand_as(value)) for seed in seeds]
    if size == 1:
        return StructuredDerivatives(value, Diagonal(rows[0]))
    blocks = torch.stack([row.unflatten(-1, (-1, size)) for row in rows], -2)
    return StructuredDerivatives(value, BlockDiagonal(blocks))
