"""`odeint` as torchdiffeq has it, and the same with all that is known of the solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.errors import SolveError
from lds_iter.guesses import Guess
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.ode.anchored import MOST_ITERATIONS, ImplicitRules, attached, explain, solve_implicit
from lds_iter.ode.explicit import RK4, ExplicitRungeKutta, ExplicitStep
from lds_iter.ode.field import Field, Func, make_field
from lds_iter.ode.gradients import with_gradient
from lds_iter.ode.grids import Grid, make_grid
from lds_iter.ode.guess import COARSEST_STEPS, from_coarse
from lds_iter.ode.implicit import AbstractImplicit
from lds_iter.ode.methods import Method, find_method
from lds_iter.ode.stopping import AtRounding, per_step
from lds_iter.recurrence import ravel
from lds_iter.solution import Progress, Result, Solution
from lds_iter.solve import sequential, solve

COARSE_TOLERANCE = 1e-4
"""Of the solutions on coarser grids: below the error of their steps, in most cases."""

COARSE_ITERATIONS = 20
"""A coarse solve that takes more is given up; its sequence starts from the initial state."""


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


def odeint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | Method | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: None = None,
    grid: Tensor | None = None,
    approximation: LDSApproximation | None = None,
    guess: Any = None,
    window: int | None = None,
    max_iters: int | None = None,
    batch_dims: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Any:
    """Solve `dy/dt = func(t, y)`, `y(t[0]) = y0`, for all steps at once; torchdiffeq's signature.

    Gradients reach `y0`, what `func` is made of, and `t`: those of the steps taken, exactly, in memory that grows with
    the number of steps as one evaluation of `func` does.

    Args:
        func: `func(t, y)`, from a time without dimensions and a state to the slope, in the structure of `y0`.
        y0: the state at `t[0]`: a float32 or float64 tensor of any shape, or a tuple of them.
        t: the times `(N)`, increasing or decreasing; a step leads from each one to the next.
        rtol: how far the solution may be from the one that steps after each other give, relative to its numbers, as
            long as the equation does not amplify differences; 1e-5 in float32 and 1e-10 in float64 when None. It says
            nothing of the error of the steps themselves, which their size decides.
        atol: the same, absolute.
        method: `"rk4"` (when None), `"euler"`, `"midpoint"`, `"heun2"`, `"heun3"`, as in torchdiffeq;
            `"implicit_euler"`, `"implicit_midpoint"`, `"trapezoid"`; `"deer"`, the field linearized at midpoints; or a
            method object.
        options: `{"substeps": m}` equal steps between each two times; torchdiffeq's `step_size`, `grid_constructor`
            and `interp`.
        event_fn: not possible for all steps at once.
        grid: the nodes of the steps instead, such as `li.ode.adaptive_grid` finds.
        approximation: how the recurrence over the steps is approximated; `li.Newton()` when None.
        guess: where the iteration starts: the states after every step in the structure of `y0`, each tensor
            `(T, ...)`, or a policy of `li.solve`; when None the solution on a grid ten times coarser.
        window: evaluate at most this many steps at once: for chaotic equations, and to bound memory.
        max_iters: the limit of iterations; none for explicit methods and 100 for implicit ones when None.
        batch_dims: how many leading dimensions are independent of each other; found out when None.
        callback: called with a `Progress` after every iteration.

    Returns:
        The states at the times `t`, in the structure of `y0`, each tensor `(N, ...)`; the first row is `y0`.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
        SolveError: the iteration did not converge; it carries the solution reached.

    Example:
        >>> y = li.ode.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 1001))
        >>> y.shape, round(float(y[-1]), 5)
        (torch.Size([1001, 1]), 0.36788)
    """
    if event_fn is not None:
        raise ValueError(
            "`event_fn` ends a solution where a later state says so, which needs one step after the other. Solve on a "
            "fixed span and look for the event in the result, or use torchdiffeq."
        )
    found = integrate(
        func, y0, t, rtol=rtol, atol=atol, method=method, options=options, grid=grid, approximation=approximation,
        guess=guess, window=window, max_iters=max_iters, batch_dims=batch_dims, callback=callback,
    )  # fmt: skip
    return found.ys


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
    limits = _Limits(per_step(rtol, atol, count, s0.dtype), max_iters, window, callback)
    with torch.no_grad():
        start = _guess(rule, field, s0.detach(), steps.nodes.detach(), guess)
        solved = _solve(rule, field, s0.detach(), steps.nodes.detach(), start, approximation or Newton(), limits, throw)
    states = _with_gradient(rule, field, s0, steps, solved.states)
    rows = steps.read(field, torch.cat([s0.unsqueeze(0), states]))
    return Trajectory(field.unravel(rows), steps.nodes, replace(solved, states=states))


def recurrence(
    func: Func,
    y0: Any,
    t: Tensor,
    method: str | ExplicitRungeKutta = "rk4",
    *,
    batch_dims: int | None = None,
) -> tuple[ExplicitStep, Tensor, tuple[Tensor, Tensor]]:
    """The steps of an explicit method as a recurrence: `f`, `s0`, `inputs`, as `li.solve` and `li.sequential` take them.

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


@dataclass(frozen=True)
class _Limits:
    """Tolerances of a step, iterations, window, and who watches."""

    tolerances: tuple[float, float]
    max_iters: int | None
    window: int | None
    callback: Callable[[Progress], object] | None


def _with_gradient(rule: Method, field: Field, s0: Tensor, steps: Grid, states: Tensor) -> Tensor:
    """The states, with a gradient where one is wanted."""
    if not torch.is_grad_enabled():
        return states
    if isinstance(rule, ExplicitRungeKutta):
        return with_gradient(ExplicitStep(field, rule), s0, steps.steps, states)
    f, inputs = attached(rule, field, s0, steps.steps, states)
    return with_gradient(f, s0, inputs, states)


def _solve(
    rule: Method,
    field: Field,
    s0: Tensor,
    nodes: Tensor,
    start: Tensor,
    approximation: LDSApproximation,
    limits: _Limits,
    throw: bool,
) -> Solution:
    """All steps; both kinds of methods."""
    rtol, atol = limits.tolerances
    steps = (nodes[:-1], nodes.diff())
    if isinstance(rule, AbstractImplicit):
        most = MOST_ITERATIONS if limits.max_iters is None else limits.max_iters
        window = len(steps[0]) if limits.window is None else limits.window
        rules = ImplicitRules(rtol, atol, most, window, limits.callback)
        solution = solve_implicit(rule, field, s0, steps, start, approximation, rules)
        if throw and solution.failed:
            raise explain(solution, most)
        return solution
    rounding = AtRounding(start.abs().amax((0, -1)).maximum(s0.abs().amax(-1)))
    solution = solve(
        ExplicitStep(field, rule), s0, steps, approximation, guess=start, rtol=rtol, atol=atol,
        max_iters=limits.max_iters, window=limits.window, callback=limits.callback, stop=rounding, throw=throw,
    )  # fmt: skip
    ended = solution.result.masked_fill(solution.result == int(Result.STOPPED), int(Result.SUCCESS))
    return replace(solution, result=ended)


def _guess(rule: Method, field: Field, s0: Tensor, nodes: Tensor, guess: Any) -> Tensor:
    """The states to start from, `(T, *batch, D)`."""
    if callable(guess):
        return _by_policy(guess, rule, field, s0, nodes)
    if guess is not None:
        lead = field.batch_dims
        rows = pytree.tree_map(lambda leaf: leaf.detach(), guess)
        return ravel(rows, lead + 1)[0]
    return coarse_guess(rule, field, s0, nodes)


def _by_policy(guess: Guess, rule: Method, field: Field, s0: Tensor, nodes: Tensor) -> Tensor:
    if isinstance(rule, AbstractImplicit):
        raise TypeError("`guess` must be a tensor (T, ...) for an implicit method, which has no step to give a policy.")
    return guess(ExplicitStep(field, rule), s0, (nodes[:-1], nodes.diff()), len(nodes) - 1)


def coarse_guess(rule: Method, field: Field, s0: Tensor, nodes: Tensor) -> Tensor:
    """The guess when none is given, `(T, *batch, D)`: the solution on every tenth node, which starts from its own.

    On coarser grids explicit methods are replaced by Runge and Kutta's of order 4: it is stable for larger steps.
    """
    explicit = isinstance(rule, ExplicitRungeKutta)
    if not explicit and len(nodes) - 1 <= COARSEST_STEPS:
        return s0.expand(len(nodes) - 1, *s0.shape)

    def coarser(coarse: Tensor) -> Tensor:
        if explicit and len(coarse) - 1 <= COARSEST_STEPS:
            return sequential(ExplicitStep(field, RK4), s0, (coarse[:-1], coarse.diff()))
        start = coarse_guess(rule, field, s0, coarse)
        limits = _Limits((COARSE_TOLERANCE, COARSE_TOLERANCE), COARSE_ITERATIONS, None, None)
        found = _solve(RK4 if explicit else rule, field, s0, coarse, start, Newton(), limits, throw=False)
        failed = found.result != int(Result.SUCCESS)
        return found.states.masked_fill(failed.unsqueeze(-1), torch.nan)

    return from_coarse(field, s0, nodes, coarser, smooth=explicit)
