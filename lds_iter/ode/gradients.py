"""The exact gradient of the discrete solution, by reversed scans.

With `g_t` the gradient of a loss with respect to `s_t` and `J_t` the Jacobian of step t, the gradient with respect to
the value of step t is `l_t = g_t + J_{t+1}^T l_{t+1}`, a linear recurrence backwards in time. For explicit methods it
is solved as the steps are, by iterative refinement: a scan with approximate transitions, then one vector-Jacobian
product of all steps for the exact residual and a scan for the correction, until the residual is at rounding level. That
takes one or two corrections; where it takes many, and for implicit methods, the exact Jacobians are made. No equation
is integrated again, so it is the gradient of the steps that were taken, whatever their size. Memory: what autograd
keeps of two evaluations of all steps, and the Jacobians of a stretch of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.pullback import pullback
from lds_iter.derivatives.refusals import refusals_of
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import Dense
from lds_iter.ode.stopping import RELATIVE_FLOOR_ULPS, STALLED_ULPS
from lds_iter.recurrence import Function, detached, take_rows

JACOBIAN_ELEMENTS = 1 << 22
"""Numbers in the Jacobians that are held at once (32 MiB in float64)."""

CORRECTIONS = 5
"""More of them cost more than exact Jacobians."""

Transitions = Callable[[Tensor, Tensor, Any], Dense]
"""Approximate Jacobians of some steps, from the states at both ends, `(n, *batch, D)`, and the inputs."""


def with_gradient(f: Function, s0: Tensor, inputs: Any, states: Tensor, near: Transitions | None = None) -> Tensor:
    """The solved states `(T, *batch, D)` of a recurrence, with a gradient where one is wanted.

    Args:
        f, s0, inputs: the recurrence.
        states: its solution.
        near: approximate Jacobians that are cheaper than the exact ones.
    """
    if not torch.is_grad_enabled() or not f(s0.unsqueeze(0), take_rows(inputs, 0, 1)).requires_grad:
        return states
    value = f(torch.cat([s0.unsqueeze(0), states[:-1]]), inputs)
    fixed = detached(inputs)
    return _AttachedStates.apply(value, states, lambda g: adjoint(f, states, fixed, g, near))  # pyright: ignore[reportReturnType]


def adjoint(f: Function, states: Tensor, inputs: Any, g: Tensor, near: Transitions | None) -> Tensor:
    """All `l_t`, `(T, *batch, D)`, a stretch of rows at a time from the end."""
    width = states.shape[-1]
    rows = max(1, JACOBIAN_ELEMENTS // (states[0].numel() * width))
    parts = [g[-1:]]
    for stop in range(len(states) - 1, 0, -rows):
        some = slice(max(0, stop - rows), stop)
        after = slice(some.start + 1, some.stop + 1)
        u, last = take_rows(inputs, after.start, after.stop), parts[-1][0]
        found = None
        if near is not None:
            found = _refined(f, states[some], u, g[some], last, near(states[some], states[after], u))
        if found is None:
            jacobian = FunctionDerivatives(f, states[some], u, refusals_of(f)).jacobian()
            found = linear_scan(Dense(jacobian.mT), g[some], last, reverse=True)
        parts.append(found)
    return torch.cat(parts[::-1])


def _refined(f: Function, states: Tensor, u: Any, g: Tensor, last: Tensor, near: Dense) -> Tensor | None:
    """The `l_t` of a stretch from approximate Jacobians; None where refinement is slow.

    Args:
        f, states, u: the steps from these states on.
        g: `(n, *batch, D)`.
        last: `l` behind the stretch, `(*batch, D)`.
        near: the approximate Jacobians.
    """
    pull = pullback(lambda s: f(s, u), states, refusals_of(f), attached=False)
    transposed = near.transpose()
    found, before = linear_scan(transposed, g, last, reverse=True), math.inf
    unit = torch.finfo(g.dtype).eps
    for _ in range(CORRECTIONS):
        residual = g + pull(torch.cat([found[1:], last.unsqueeze(0)])) - found
        size = float((residual.abs().amax((0, -1)) / found.abs().amax((0, -1)).clamp(min=unit**2)).max())
        if size <= RELATIVE_FLOOR_ULPS * unit or (before / 2 <= size <= STALLED_ULPS * unit):
            return found
        if not size < before / 2:
            return None
        found, before = found + linear_scan(transposed, residual, reverse=True), size
    return None


class _AttachedStates(torch.autograd.Function):
    """Forward: the states. Backward: the gradients of the values of all steps, which are the adjoints."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, states: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004
        ctx.adjoint = adjoint
        return states.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of `odeint` cannot be differentiated again (`create_graph=True`). Type "
                "li.sequential(*li.ode.recurrence(func, y0, t)) for states that can."
            )
        return ctx.adjoint(g), None, None
