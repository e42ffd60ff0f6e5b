"""The exact gradient of the discrete solution, by one Jacobian of every step and one reversed scan.

With `g_t` the gradient of a loss with respect to `s_t` and `J_t` the Jacobian of step t, the gradient with respect to
the value of step t is `l_t = g_t + J_{t+1}^T l_{t+1}`, a linear recurrence backwards in time. Nothing is iterated and
nothing is integrated again, so it is the gradient of the steps that were taken, whatever their size. Memory: what
autograd keeps of one evaluation of all steps, and the Jacobians of a stretch of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import FunctionDerivatives
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import Dense
from lds_iter.recurrence import Function, detached, take_rows

JACOBIAN_ELEMENTS = 1 << 22
"""Numbers in the Jacobians that are held at once (32 MiB in float64)."""


def with_gradient(f: Function, s0: Tensor, inputs: Any, states: Tensor) -> Tensor:
    """The solved states `(T, *batch, D)` of a recurrence, with a gradient where one is wanted."""
    if not torch.is_grad_enabled() or not f(s0.unsqueeze(0), take_rows(inputs, 0, 1)).requires_grad:
        return states
    value = f(torch.cat([s0.unsqueeze(0), states[:-1]]), inputs)
    fixed = detached(inputs)
    return _AttachedStates.apply(value, states, lambda g: adjoint(f, states, fixed, g))  # pyright: ignore[reportReturnType]


def adjoint(f: Function, states: Tensor, inputs: Any, g: Tensor) -> Tensor:
    """All `l_t`, `(T, *batch, D)`, a stretch of rows at a time from the end."""
    width = states.shape[-1]
    rows = max(1, JACOBIAN_ELEMENTS // (states[0].numel() * width))
    parts = [g[-1:]]
    for stop in range(len(states) - 1, 0, -rows):
        some = slice(max(0, stop - rows), stop)
        u = take_rows(inputs, some.start + 1, some.stop + 1)
        jacobian = FunctionDerivatives(f, states[some], u).jacobian()
        parts.append(linear_scan(Dense(jacobian.mT), g[some], parts[-1][0], reverse=True))
    return torch.cat(parts[::-1])


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
