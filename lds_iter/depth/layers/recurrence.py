"""A stack of layers as the arguments of `solve`: states in float32 or float64, derivatives only where they fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import Refusals
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.plain_loop import sequential
from lds_iter.recurrence import own_linearize
from lds_iter.solution import Solution
from lds_iter.solve import solve


@dataclass(frozen=True)
class DepthRecurrence:
    """A stack of layers as the arguments of `li.solve`; time is depth, the state a whole hidden sequence.

    Attributes:
        f: one layer, for any rows (depths) at once.
        s0: the flattened hidden states below the first layer, `(*batch, D)`, float32 or float64. Layers in half
            precision keep it; `f` casts at its edge.
        inputs: tells the rows apart; leads with the depth T.
        shape: of one hidden state, `(tokens, width)` or whatever was flattened.
        head: from hidden states above the last layer, `(*batch, *shape)`, to the model's output; None for a bare stack.
    """

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    shape: torch.Size
    head: Callable[[Tensor], Any] | None = None

    def solve(self, method: LDSApproximation | None = None, **options: Any) -> Solution:
        """All layers in parallel.

        Args:
            method: `Jacobi()` when None, which needs no derivatives: a hidden sequence has tens of thousands of
                numbers, and Newton's method forms a matrix of that size squared for every layer.
            options: as `li.solve` takes them.

        Raises:
            MemoryError: where a method asks for Jacobians that do not fit in the memory of the device.
        """
        f = Layers(self.f) if own_linearize(self.f) is None else self.f
        try:
            return solve(f, self.s0, self.inputs, Jacobi() if method is None else method, **options)
        except RuntimeError as error:
            if any(word in str(error) for word in ("scaled_dot_product", "attention", "transformer_encoder")):
                error.add_note(
                    "The attention kernel has no forward-mode derivative. Solve within `with "
                    'li.depth.forward_mode():`, or load the model with attn_implementation="eager". `li.Jacobi()` and '
                    "`li.Picard()` need none."
                )
            raise

    def sequential(self) -> Tensor:
        """Layer by layer; the states `(T, *batch, D)`."""
        return sequential(self.f, self.s0, self.inputs)

    def unflatten(self, states: Tensor) -> Tensor:
        """States `(..., D)` as hidden states `(..., tokens, width)`."""
        return states.unflatten(-1, self.shape)

    def finish(self, last: Tensor) -> Any:
        """The model's output from the state above its last layer, `(*batch, D)`: final norm, head and all.

        Raises:
            ValueError: for a bare stack, which has nothing above its layers.
        """
        if self.head is None:
            raise ValueError(
                "This recurrence is a bare stack of layers without a head. Type `problem.unflatten(last)`."
            )
        return self.head(self.unflatten(last))


@dataclass(frozen=True)
class Layers:
    """`f` with derivatives by `torch.func`, whose Jacobians are refused where they do not fit.

    Attributes:
        f: the layers of a `DepthRecurrence`.
        refusals: what they have refused of autodiff in this solve.
    """

    f: Callable[[Tensor, Any], Tensor]
    refusals: Refusals = field(default_factory=Refusals, repr=False, compare=False)

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        return self.f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        return FittingDerivatives(FunctionDerivatives(self.f, s, inputs, self.refusals), s.shape)


class FittingDerivatives(AbstractDerivatives):
    """Derivatives of rows of the given shape; refuses a dense Jacobian that is larger than half the device's memory."""

    def __init__(self, derivatives: AbstractDerivatives, shape: torch.Size) -> None:
        self.value = derivatives.value
        self._derivatives, self._shape = derivatives, shape

    def jvp(self, v: Tensor) -> Tensor:
        return self._derivatives.jvp(v)

    def vjp(self, w: Tensor) -> Tensor:
        return self._derivatives.vjp(w)

    def diagonal(self) -> Tensor:
        return self._derivatives.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        return self._derivatives.block_diagonal(size)

    def jacobian(self) -> Tensor:
        needed = self._shape.numel() * self._shape[-1] * self.value.element_size()
        there = _memory_bytes(self.value.device)
        if 2 * needed > there:
            raise MemoryError(
                f"The Jacobians of {self._shape.numel() // self._shape[-1]} hidden sequences of D = {self._shape[-1]} "
                f"numbers take {needed / 2**30:,.0f} GiB, their products in the scan as much again, and the device has "
                f"{there / 2**30:,.0f} GiB. Type "
                "`li.Jacobi()` (the default of `DepthRecurrence.solve`), or `li.QuasiNewton(li.Hutchinson())`."
            )
        return self._derivatives.jacobian()


def _memory_bytes(device: torch.device) -> int:
    """All memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return 1 << 40
