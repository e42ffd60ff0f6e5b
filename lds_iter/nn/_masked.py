"""A recurrence over sequences of unequal lengths, padded at their ends to one length.

A padded row gives the state 0 whatever came before. Its residual is zero at once and its Jacobian is zero, so padding
costs memory and arithmetic but no iterations, and causality keeps it out of the rows before it. Every part that the
recurrence offers is delegated: compiled code runs on the rows before each sequence's end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.nn._gradient import stepped
from lds_iter.nn.cell import CellRecurrence
from lds_iter.recurrence import IterationRequest, IterationResult

Inputs: TypeAlias = tuple[Any, Tensor]
"""The inputs of the recurrence, and the mask, `(n, *batch, 1)`: 1 within a sequence, 0 after its end."""


class Masked:
    """A cell whose state is 0 after the end of each sequence.

    Args:
        f: the cell.
    """

    def __init__(self, f: CellRecurrence) -> None:
        self._f = f

    def __call__(self, s: Tensor, inputs: Inputs) -> Tensor:
        """One step for every row, times the mask."""
        return self._f(s, inputs[0]) * inputs[1]

    def linearize(self, s: Tensor, inputs: Inputs) -> MaskedDerivatives:
        """Value and derivatives, times the mask."""
        return MaskedDerivatives(self._f.linearize(s, inputs[0]), inputs[1])

    def steps(self, s0: Tensor, inputs: Inputs) -> Tensor | None:
        """All states, step by step in compiled code; None where that cannot serve."""
        return stepped(self._f, s0, inputs[0], inputs[1])

    def solve_adjoint(self, prev: Tensor, inputs: Inputs, g: Tensor) -> Tensor | None:
        """The adjoint recurrence in compiled code. After the end of a sequence the adjoint is the incoming gradient."""
        u, mask = inputs
        within = self._f.solve_adjoint(prev, u, g * mask)
        return None if within is None else within + g * (1 - mask)

    def fused_iteration(self, request: IterationRequest) -> IterationResult | None:
        """A whole iteration of the rows before each sequence's end; the others become 0."""
        u, mask = request.inputs
        ends = torch.minimum(request.hi, request.start + mask.squeeze(-1).sum(0).to(request.hi.dtype))
        within = replace(request, inputs=u, lo=torch.minimum(request.lo, ends), hi=ends)
        found = self._f.fused_iteration(within)
        return None if found is None else _with_padding(found, request, mask, ends)


def _with_padding(found: IterationResult, request: IterationRequest, mask: Tensor, ends: Tensor) -> IterationResult:
    """The result completed by the padded rows: their proposal is 0, and their residual is their present state."""
    request.proposal[1:].masked_fill_(mask == 0, 0)
    times = torch.arange(request.start, request.start + mask.shape[0], device=mask.device)
    times = times.view(-1, *(1,) * ends.dim())
    padding = (times >= torch.maximum(ends, request.lo)) & (times < request.hi)
    left = request.states[1:].abs().amax(-1).masked_fill(~padding, 0).amax(0)
    done = (found.lo >= ends) & (left == 0)
    return replace(
        found,
        lo=torch.where(done, request.hi, torch.maximum(found.lo, request.lo)),
        residual=torch.maximum(found.residual, left),
        excess=torch.maximum(found.excess, left),
    )


class MaskedDerivatives(AbstractDerivatives):
    """The derivatives of another recurrence, zero in padded rows."""

    def __init__(self, inner: AbstractDerivatives, mask: Tensor) -> None:
        self._inner, self._mask = inner, mask
        self.value = inner.value * mask

    def jvp(self, v: Tensor) -> Tensor:
        return self._inner.jvp(v) * self._mask

    def vjp(self, w: Tensor) -> Tensor:
        return self._inner.vjp(w * self._mask)

    def jacobian(self) -> Tensor:
        return self._inner.jacobian() * self._mask.unsqueeze(-1)

    def diagonal(self) -> Tensor:
        return self._inner.diagonal() * self._mask

    def block_diagonal(self, size: int) -> Tensor:
        return self._inner.block_diagonal(size) * self._mask.unsqueeze(-1).unsqueeze(-1)
