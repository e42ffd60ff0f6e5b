"""Solve an ordinary differential equation for all steps at once, and keep what is known of the solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled
from lds_iter.ode.anchored import attached
from lds_iter.ode.explicit import ExplicitRungeKutta, ExplicitStep
from lds_iter.ode.field import Field, Func, make_field
from lds_iter.ode.gradients import with_gradient
from lds_iter.ode.grids import Grid, make_grid
from lds_iter.ode.methods import Method, find_method
from lds_iter.ode.midpoint import MidpointJacobian
from lds_iter.ode.steps import Limits, Steps
from lds_iter.ode.stopping import per_step
from lds_iter.solution import Progress, Solution


@dataclass(frozen=True)
class Trajectory:
    """The solution at the times asked for, and how it was found.

    Attributes:
        ys: the states, in the structure of `y0`, each tensor `(N, ...)`; the first row is `y0`.
        nodes: the times of the steps, `(T + 1)`.
        solution: of the recurrence over the steps; its states `(T, *batch, D)` are those after each step, its residual
            is that of one step, its `error_estimate()` that of the whole solution against step-by-step evaluation.
    """

    ys: Any
    nodes: Tensor
    solution: Solution


@spelled
def integrate(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | Method | None = None,
    options: Mapping[str, Any] | None = None,
    grid: Tensor | None = None,
    approximation: LDSApproximation | None = None,
    guess: Any = None,
    window: int | None = None,
    max_iters: int | None = None,
    batch_dims: int | None = None,
    callback: Callable[[Progress], object] | None = None,
    throw: bool = True,
) -> Trajectory:
    """`odeint` with its iterations, residuals and error estimate: takes what `odeint` takes.

    Args:
        throw: raise `SolveError` when a sequence does not converge; otherwise see `Trajectory.solution`.

    Example:
        >>> found = li.ode.integrate(lambda t, y: y * (1 - y), torch.tensor([0.1]), torch.linspace(0, 10, 1001))
        >>> found.solution.converged, int(found.solution.iterations) <= 3
        (True, True)
    """
    rule = find_method("rk4" if method is None else method)
    steps = make_grid(func, y0, t, grid, options)
    field, s0 = make_field(func, y0, t[0], batch_dims)
    count = len(steps.nodes) - 1
    limits = Limits(*per_step(rtol, atol, count, s0.dtype), max_iters, window, callback)
    with torch.no_grad():
        all_steps = Steps(rule, field, s0.detach(), steps.nodes.detach(), approximation, limits)
        solved = all_steps.solve(guess, throw=throw)
    states = _with_gradient(rule, field, s0, steps, solved.states)
    rows = steps.read(field, torch.cat([s0.unsqueeze(0), states]))
    return Trajectory(field.unravel(rows), steps.nodes, replace(solved, states=states))


@spelled
def recurrence(
    func: Func,
    y0: Any,
    t: Tensor,
    method: str | ExplicitRungeKutta = "rk4",
    *,
    batch_dims: int | None = None,
) -> tuple[ExplicitStep, Tensor, tuple[Tensor, Tensor]]:
    """The steps of an explicit method as a recurrence: `f`, `s0`, `inputs`, as `li.solve` takes them.

    For all that these two know and `odeint` does not: records, rules to stop by, diagnostics, second derivatives.

    Example:
        >>> steps = li.ode.recurrence(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 101))
        >>> li.solve(*steps, record=True).states.shape
        torch.Size([100, 1])
    """
    rule = find_method(method)
    if not isinstance(rule, ExplicitRungeKutta):
        raise ValueError(f"`recurrence` needs an explicit method: an implicit step has no values to give, got {rule}.")
    steps = make_grid(func, y0, t, None, None)
    field, s0 = make_field(func, y0, t[0], batch_dims)
    return ExplicitStep(field, rule), s0, steps.steps


def _with_gradient(rule: Method, field: Field, s0: Tensor, steps: Grid, states: Tensor) -> Tensor:
    """The states, with a gradient where one is wanted."""
    if not torch.is_grad_enabled():
        return states
    if isinstance(rule, ExplicitRungeKutta):
        near = MidpointJacobian(field, rule).along
        return with_gradient(ExplicitStep(field, rule), s0, steps.steps, states, near)
    first = [step[:1] for step in steps.steps]
    if not rule.equation(field, *first, s0.unsqueeze(0), states[:1]).requires_grad:  # pyright: ignore[reportCallIssue]
        return states
    f, inputs = attached(rule, field, s0, steps.steps, states)
    return with_gradient(f, s0, inputs, states)
