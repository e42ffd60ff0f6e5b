"""Transitions and scan in a lower precision, `f` and residuals in full.

The scan runs on the update, so this is iterative refinement (Moler, "Iterative refinement in floating point", 1967):
the states reach full precision in nearly the same iterations, while the largest tensors and the scan halve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.registry import register_scan
from lds_iter.linear.transitions import AbstractTransition, Factor, leaves, map_leaves
from lds_iter.methods.arguments import check_transition_method
from lds_iter.methods.base import StatefulTransition, checked_choice


@dataclass(frozen=True)
class Lowered(AbstractTransition):
    """A transition whose numbers have fewer bits than the vectors it meets. `inner`: in the lower precision."""

    inner: AbstractTransition

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the numbers."""
        return leaves(self.inner)[0].dtype

    def mv(self, x: Tensor) -> Tensor:
        return self.inner.mv(x.to(self.dtype)).to(x.dtype)

    def after(self, earlier: Any) -> Lowered:
        return Lowered(self.inner.after(earlier.inner))

    def transpose(self) -> Lowered:
        return Lowered(self.inner.transpose())

    def scaled(self, factor: Factor) -> Lowered:
        return Lowered(self.inner.scaled(factor.to(self.dtype) if isinstance(factor, Tensor) else factor))


@register_scan(Lowered)
def lowered_scan(transition: Lowered, x: Tensor, initial: Tensor | None = None) -> None:
    """The scan of the inner structure, all of it in the lower precision; reference: `reference_scan`."""
    start = None if initial is None else initial.to(transition.dtype)
    x.copy_(linear_scan(transition.inner, x.to(transition.dtype), start))


@dataclass(frozen=True)
class LowPrecision(StatefulTransition):
    """Store and scan the transitions of a method in `dtype`.

    Attributes:
        method: whose transitions; one that has numbers (`Picard` and `Jacobi` have none).
        dtype: bfloat16 keeps the range of float32, so that products do not overflow early; float32 for a problem in
            float64. float16 overflows at 65504.

    Raises:
        TypeError: when `method` does not choose a transition, or `dtype` is none that can be computed with.
    """

    method: StatefulTransition
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        usable = torch.bfloat16, torch.float16, torch.float32, torch.float64
        if self.dtype not in usable:
            raise TypeError(f"`dtype` must be a floating-point torch.dtype such as torch.bfloat16, got {self.dtype!r}.")

    @property
    def runs_forward(self) -> bool:
        return self.method.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return replace(self, method=self.method.for_adjoint())

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        full, carry = checked_choice(self.method, lin, carry)
        return Lowered(map_leaves(lambda leaf: leaf.to(self.dtype), full)) if leaves(full) else full, carry
