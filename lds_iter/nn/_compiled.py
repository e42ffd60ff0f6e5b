"""How the recurrences of `torch.nn` run in compiled code on a CPU: step, derivatives, iterations, adjoint, gradients.

Where compiled code cannot serve (other devices and types, second derivatives, `torch.func`, tracing) the same comes
from plain torch operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.kernels.cpu.cells import CompiledCell, Form, Tensors
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.newton import Newton
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.nn._fused import FusedDerivatives
from lds_iter.recurrence import IterationRequest, IterationResult

PAIRS = BlockNewton(2)
FORMS = ((Newton(), Form.FULL), (QuasiNewton(), Form.DIAGONAL), (PAIRS, Form.BLOCKS))

Plain = Callable[[Tensor, Tensors], Any]
"""The derivatives in plain operations, which know the compiled gradients too, from states and tensors."""


@dataclass(frozen=True)
class Recipe:
    """A compiled cell, and whose gradients it makes.

    Attributes:
        cell: takes states and tensors.
        inputs: which of the tensors that `gradients` makes belong to the inputs.
        direct: which one to each part of the state, besides what comes through the products; None where there is none.
    """

    cell: CompiledCell
    inputs: tuple[int, ...]
    direct: tuple[int | None, ...]

    def value(self, s: Tensor, tensors: Tensors, plain: Plain) -> Tensor:
        """One step for every row."""
        if self.cell.serves_with_gradients(s, tensors):
            return _Step.apply(self, plain, s, *tensors)  # pyright: ignore[reportReturnType]
        done = self.cell.step(s, tensors, blocks=False)
        return plain(s, tensors).value if done is None else done[0]

    def linearize(self, s: Tensor, tensors: Tensors, plain: Plain) -> AbstractDerivatives:
        """The value and the derivatives, the blocks within the channels in the same pass as the value."""
        done = self.cell.step(s, tensors, blocks=True)
        if done is None or done[1] is None:
            return plain(s, tensors)
        return FusedDerivatives(done[0], done[1], lambda: plain(s, tensors), lambda: self.cell.jacobian(s, tensors))

    def fused_iteration(self, request: IterationRequest, tensors: Tensors) -> IterationResult | None:
        """One iteration of the methods that compiled code has; None of others."""
        form = self._form(request.method)
        return None if form is None else self.cell.iteration(form, request, tensors)

    def _form(self, method: LDSApproximation) -> Form | None:
        form = next((form for known, form in FORMS if method == known), None)
        return None if form is Form.BLOCKS and self.cell.parts != PAIRS.size else form


class _Step(torch.autograd.Function):
    """The step in compiled code with its gradients, for which nothing but its arguments is kept."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, plain: Plain, s: Tensor, *tensors: Tensor) -> Tensor:
        ctx.recipe, ctx.plain = recipe, plain
        ctx.save_for_backward(s, *tensors)
        done = recipe.cell.step(s, tensors, blocks=False)
        return plain(s, tensors).value if done is None else done[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        recipe, (s, *rest) = ctx.recipe, ctx.saved_tensors
        tensors, gates, needed = tuple(rest), recipe.cell.gates, ctx.needs_input_grad[2:]
        weights, wanted = tensors[gates : 2 * gates], any(needed[1 + gates : 1 + 2 * gates])
        done = recipe.cell.gradients(s, tensors, g, matrices=wanted)
        if done is None:  # to be differentiated again, or batched
            made = ctx.plain(s, tensors).gradients(g)
            h = s[..., :: recipe.cell.parts].reshape(-1, weights[0].shape[0])
            d_weights = tuple(slope.reshape(h.shape).T @ h for slope in made[:gates]) if wanted else ()
        else:
            made, d_weights = done
        d_s = _of_state(recipe, made, weights).reshape(s.shape) if needed[0] else None
        d_bias = [made[gates - 1].reshape(-1, weights[0].shape[0]).sum(0)] if len(tensors) > 2 * gates else []
        return None, None, d_s, *(made[k] for k in recipe.inputs), *(d_weights or [None] * gates), *d_bias


def _of_state(recipe: Recipe, made: Tensors, weights: Tensors) -> Tensor:
    through = made[0] @ weights[0]
    for slope, weight in zip(made[1 : len(weights)], weights[1:], strict=True):
        through = through + slope @ weight
    parts = [torch.zeros_like(through) if k is None else made[k] for k in recipe.direct]
    parts[0] = parts[0] + through
    return parts[0] if len(parts) == 1 else torch.stack(parts, -1)
