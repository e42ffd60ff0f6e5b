"""The boundary: every argument is checked here, once, before any compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import no_tangents, under_jvp, untraced, without_autocast
from lds_iter.checks import (
    Arguments,
    Options,
    check_arguments,
    check_ends,
    check_shared_arguments,
    checked_method,
    last_inputs,
)
from lds_iter.derivatives.along import linearize_along
from lds_iter.derivatives.autodiff import refused
from lds_iter.distributed.rank_errors import ESTIMATE
from lds_iter.distributed.shared_scan import shared_scan
from lds_iter.errors import SolveError, explain_failure
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.gradients.implicit import Implicit
from lds_iter.gradients.tangent import with_tangent, without_tangents
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.linear.cut import Cut
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.loop.contract import versions
from lds_iter.loop.notes import explained
from lds_iter.loop.observers import Recorder, all_resets, calls, progress_bar, stops
from lds_iter.loop.run import Interrupted
from lds_iter.loop.state import AbstractStrategy, LoopState, Observer, Problem
from lds_iter.loop.tiles import TILE_ELEMENTS
from lds_iter.methods.advice import advice
from lds_iter.methods.base import LDSApproximation, StatefulTransition
from lds_iter.methods.newton import Newton
from lds_iter.methods.rules import AbstractRule, asked
from lds_iter.recurrence import detached
from lds_iter.solution import Decision, Progress, Result, Solution

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@untraced
@explained
def solve(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    method: LDSApproximation | AbstractStrategy | None = None,
    *,
    guess: Tensor | Guess = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
    adjoint: AbstractAdjoint | None = None,
    record: bool = False,
    progress: bool = False,
    callback: Callable[[Progress], object] | None = None,
    stop: AbstractRule | Callable[[Progress], Tensor] | None = None,
    throw: bool = True,
    mesh: DeviceMesh | ProcessGroup | None = None,
) -> Solution:
    """Evaluate `s_t = f(s_{t-1}, u_t)`, t = 1..T, for all t in parallel, by fixed-point iteration.

    The fixed point is the sequential trajectory, whatever the method; at most T iterations reach it.

    Args:
        f: `f(s, u)`, batched over all leading dimensions: states `(n, *batch, D)` and inputs `(n, ...)` of any n rows
            to states of the same shape, every row by itself. A function, an `nn.Module`, or an object with a method
            `linearize(s, u) -> AbstractDerivatives` that knows its own derivatives. `li.Compiled(f)`, made once, runs
            the iterations compiled.
        s0: the state before the first step, `(*batch, D)`, float32 or float64, on any device.
        inputs: a pytree (tensor, tuple, dict ...) of tensors that lead with T, such as `(T, *batch, D_in)`.
        method: the LDS approximation, or `Auto()`, which chooses while it solves; `Newton()` when None.
        guess: where to start: a tensor `(T, *batch, D)`, or a policy such as `repeat_initial` (the default),
            `step_from_zero`, or any callable `(f, s0, inputs, T) -> (T, *batch, D)`.
        rtol: stop when `|f(s_{t-1}, u_t) - s_t| <= atol + rtol |f(s_{t-1}, u_t)|` for every number, as
            `torch.allclose` has it. This bounds the residual, not the error (`Solution.error_estimate`). When None,
            1e-5 in float32 and 1e-10 in float64. Both 0: stop only when `f`, evaluated along the states, returns them
            bit for bit.
        atol: see `rtol`; the same default.
        max_iters: the limit of updates per sequence; T when None, which always suffices.
        window: evaluate at most this many time steps beyond the first one not accepted yet. Bounds memory and wasted
            work; T (when None) is the textbook algorithm, 1 the sequential loop.
        adjoint: how gradients reach the parameters of `f`, `s0` and `inputs` in grad mode; `Implicit()` when None,
            which is exact at convergence for every method.
        record: keep `Solution.history`: residuals per iteration and time, `iterations * T` numbers on the CPU.
        progress: show a bar of accepted rows, with iteration and residual.
        callback: called with a `Progress` after every evaluation.
        stop: a rule such as `Below(1e-3) | Elapsed(60)`, or a function from a `Progress` to a bool per sequence,
            `(*batch)`, asked after every evaluation.
            The sequences for which it is true end there with `Result.STOPPED`, which is no error.
        throw: raise `SolveError` when a sequence does not converge; otherwise see `Solution.result`.
        mesh: a one-dimensional `DeviceMesh`, such as `mesh["time"]`, or a `ProcessGroup`, whose ranks share the time
            steps: each gives the rows of `inputs` (and of a guess) that it holds, rank after rank in order of time, and
            gets the states of these; T is the sum, and a rank may have none. `s0` is that of the first rank. All other
            arguments are the same on all ranks, and so is all else of the `Solution`. Gradients are those of the sum of
            all ranks' losses: every rank calls `.backward()`, those of the parameters of `f` are each rank's part of
            the sum over ranks, and that of `s0` is the first rank's.

    Returns:
        A `Solution`. Its states carry a gradient where one is wanted: grad mode is on and `f` depends on something that
        requires it; and a tangent under `torch.func.jvp` and `jacfwd`, by one more scan, in O(T D^2) memory.

    Raises:
        TypeError, ValueError: for arguments that cannot work, before the first iteration.
        SolveError: carries the solution reached, and says what to try.
        RankError: with `mesh`, when another rank has failed or is gone.
        Exception: what a callback or a rule raises, with the solution reached in its attribute `solution`.

    Example:
        >>> decay = lambda s, u: 0.5 * s.tanh() + u
        >>> solution = li.solve(decay, torch.zeros(2), torch.ones(1000, 2))
        >>> solution.converged, solution.states.shape
        (True, torch.Size([1000, 2]))
    """
    if under_jvp() and mesh is None:
        with no_tangents():
            at, along, fixed = without_tangents(s0), without_tangents(inputs), without_tangents(guess)
            solution = solve(
                f, at, along, method, guess=fixed, rtol=rtol, atol=atol, max_iters=max_iters, window=window,
                adjoint=adjoint, record=record, progress=progress, callback=callback, stop=stop, throw=throw,
            )  # fmt: skip
        return replace(solution, states=with_tangent(f, s0, inputs, solution.states))
    gradients = Implicit() if adjoint is None else adjoint
    options = Options(gradients, record, progress, callback, stop, throw)
    limits: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_iters": max_iters, "window": window}
    if mesh is None:
        options.check()
        given = check_arguments(f, s0, inputs, method, guess, **limits)
    else:
        given = check_shared_arguments(f, s0, inputs, method, guess, mesh=mesh, options=options, **limits)
    gradients.check_method(given.method)
    recorder = Recorder() if record else None
    ending = None if stop is None else stops(asked(stop))
    watching = (ending, recorder, None if callback is None else calls(callback))
    observers = tuple(observer for observer in watching if observer is not None)
    shards = given.problem.shards
    with contextlib.nullcontext() if shards is None else shards.telling(), without_autocast(s0):
        solution = _solved(given, gradients, observers, recorder, progress)
    if throw and solution.failed:
        options, length = given.options, given.problem.length
        message = explain_failure(solution, advice(given.method), options.rtol, options.atol, given.limit, length)
        raise SolveError(message, solution)
    return solution


def _solved(
    given: Arguments,
    gradients: AbstractAdjoint,
    observers: tuple[Observer, ...],
    recorder: Recorder | None,
    progress: bool,
) -> Solution:
    """The solution, of checked arguments, with a gradient."""
    problem, options, shards = given.problem, given.options, given.problem.shards
    with progress_bar(problem.length, progress, hidden=shards is not None and shards.place > 0) as bar:
        observers = observers if bar is None else (*observers, bar)
        last = last_inputs(problem.inputs, problem.held.stop - problem.held.start)
        try:
            state, states = gradients.solve(problem, given.method, given.guess, options, observers, wanted=given.wanted)
        except Interrupted as interrupted:
            ended = interruption(problem, interrupted)
            raise ended from ended.__cause__
    solved, s0 = state.result == int(Result.SUCCESS), problem.s0.detach()
    if shards is None or not shards.is_empty:
        first = given.first
        if shards is not None and shards.place > 0:  # the step before this rank's first one was not known before
            s0 = state.states[0]
            with torch.no_grad():
                first = problem.f(state.states[:1], problem.inputs_at(shards.first, shards.first + 1))
        try:
            check_ends(problem.f, state.states.detach(), first, last, solved, s0, options.rtol, options.atol)
        except KeyboardInterrupt as interrupt:
            raise interruption(problem, Interrupted(state)) from interrupt
    state = replace(state, resets=all_resets(problem, state))
    return replace(solution_of(problem, state, recorder), states=states)


def interruption(problem: Problem, interrupted: Interrupted) -> BaseException:
    """What ended a solve from outside, a KeyboardInterrupt or an error of a callback, with the states reached."""
    state, error = interrupted.state, interrupted.__cause__
    running = state.running
    state = replace(state, result=state.result.masked_fill(running, int(Result.STOPPED)))
    if error is None or isinstance(error, KeyboardInterrupt):  # the update was taken, and not measured
        state = replace(state, residual=state.residual.masked_fill(running, torch.nan))
        error = KeyboardInterrupt()
    error.solution = solution_of(problem, state, None)  # pyright: ignore[reportAttributeAccessIssue]
    error.add_note("The states reached are in the attribute `solution` of this exception.")
    return error


def solution_of(problem: Problem, state: LoopState, recorder: Recorder | None) -> Solution:
    """What a solve returns, from the last state of the loop."""
    fixed = replace(problem, s0=problem.s0.detach(), inputs=detached(problem.inputs))
    trajectory, carry = state.states.detach(), state.carry
    shared = (trajectory, fixed.s0, *(leaf for leaf in pytree.tree_leaves(fixed.inputs) if isinstance(leaf, Tensor)))
    before = versions(shared)

    def estimate(method: StatefulTransition | None) -> Tensor:
        if before is not None and versions(shared) != before:
            raise ValueError(
                "The states of this solution, `s0` or `inputs` have been written into since the solve, so an estimate "
                "would be that of other numbers. Call `error_estimate` before, or write into `solution.states.clone()`."
            )
        with torch.no_grad():
            return _error_estimate(fixed, trajectory, Newton() if method is None else method)

    return Solution(
        state.states[1:],
        state.result,
        state.iterations,
        state.residual.detach(),
        None if recorder is None else recorder.history(),
        state.evaluations,
        state.resets,
        carry,
        state.decisions + _ways_of(problem.f),
        estimate,
    )


def _ways_of(f: Callable[[Tensor, Any], Tensor]) -> tuple[Decision, ...]:
    """How derivatives were computed where `f` refused the usual way."""
    return tuple(Decision(0, 0, way, f"`f` refuses a faster way ({why})") for way, why in refused(f).items())


def _error_estimate(problem: Problem, trajectory: Tensor, method: StatefulTransition) -> Tensor:
    """`d_t = A_t d_{t-1} + r_t` over the whole trajectory, in stretches that bound the memory of a dense `A`."""
    checked_method(method, transition=True)
    rows = max(1, 16 * TILE_ELEMENTS // max(1, problem.s0.numel() * problem.s0.shape[-1]))
    stretches, d = [], torch.zeros_like(problem.s0)
    prev, states, shards = trajectory[:-1], trajectory[1:], problem.shards
    if shards is not None:
        rows, shards = len(states), shards.during(ESTIMATE)  # one scan over all ranks
    for lin in linearize_along(problem.f, prev, states, problem.inputs, rows=rows, iteration=problem.length):
        transition = method.transition(lin)
        if shards is not None:
            with shards.telling():
                found = shared_scan(shards, transition, lin.residual, Cut.nowhere(0, states))
            return found[:0] if shards.is_empty else found
        stretches.append(linear_scan(transition, lin.residual, d))
        d = stretches[-1][-1]
    return torch.cat(stretches)
