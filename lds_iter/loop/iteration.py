"""One sweep: evaluate `f` along the guess, measure the residual, accept rows, and collect the method's proposal.

    value_t = f(prev_t, u_t)                  prev_t = current guess of s_{t-1}; all t in one batched call
    r_t     = value_t - s_t                   the residual; zero for all t means solved
    d_t     = A_t d_{t-1} + G_t r_t           the method's proposal, one parallel scan

On a CPU the rows of a forward-in-time method are swept in tiles that fit the cache, the last `d` of one tile starting
the scan of the next: the same iteration, in less memory.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization, linearize
from lds_iter.loop.frontier import OpenRows, advance
from lds_iter.loop.fused import Moved, Settled, Sweeping
from lds_iter.loop.state import Problem, Rules, Workspace
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.solution import Result

TILE_ELEMENTS = 1 << 18
"""Numbers of one sequence's tile per thread on a CPU (1 MiB in float32). Smaller ones fit a second-level cache better,
but the cost of dispatching operations outweighs that. The batch does not enter: where a scan is split decides how it
rounds, and batch mates must not feel each other even there."""


@dataclass
class Sweep:
    """One evaluation of the rows `[start, stop)`, with the states that the method proposes for them."""

    start: int
    stop: int
    active: Tensor
    rows: OpenRows
    excess: Tensor
    residual: Tensor
    accepted_residual: Tensor
    broken: Tensor
    resets: Tensor


def sweep_over(problem: Problem, method: LDSApproximation, state: Workspace, rules: Rules) -> Sweep:
    """Evaluate `f` along the guess, tile by tile, and collect proposals and residuals."""
    start, stop, active, rows = _extent(state, rules, problem.length)
    zero = torch.zeros_like(state.residual)
    state.evaluations += rows.hi - rows.lo  # none where a sequence rests
    sweep = Sweep(start, stop, active, rows, zero, zero, zero, zero > 0, torch.zeros_like(state.resets))
    if rules.record:
        state.maps.append(state.maps[-1].clone() if state.maps else _unseen(problem, state))
    if _in_one_pass(problem, method, state, rules, sweep):
        state.sweeps += 1
        return sweep
    d_before = torch.zeros_like(problem.s0)
    grid = _grid(problem, rules.window)
    forward = isinstance(method, TransitionApproximation) and _torch.on_host(problem.s0)
    bounds = [start, *range(start + grid - start % grid, stop, grid), stop] if forward else [start, stop]
    for first, last in itertools.pairwise(bounds):
        if rows.passed(last):
            sweep.start = last
        else:
            d_before = _tile(problem, method, state, rules, sweep, first, last, d_before)
    state.sweeps += 1
    return sweep


def _in_one_pass(problem: Problem, method: LDSApproximation, state: Workspace, rules: Rules, sweep: Sweep) -> bool:
    """The whole sweep in one pass over memory, where method and recurrence allow; false where it is still to do.

    Where a recurrence has a method for it: see `lds_iter.loop.fused`.
    """
    own = getattr(problem.f, "sweep" if _torch.on_host(problem.s0) else "sweep_on_device", None)
    if own is None:
        return False
    start, stop, lo, hi = sweep.start, sweep.stop, sweep.rows.lo, sweep.rows.hi
    buffer, spare = state.buffer[start : stop + 1], state.spare[start : stop + 1]
    inputs = problem.inputs_at(start, stop)
    found = own(method, Sweeping(buffer, spare, problem.s0, start, lo, hi, rules.rtol, rules.atol), inputs)
    if found is None:
        return False
    sweep.rows, sweep.residual, sweep.accepted_residual = OpenRows.of(found.lo, hi), found.residual, found.accepted
    sweep.excess = found.residual if rules.rtol == 0 else found.excess
    flawed = isinstance(found, Moved) and found.flawed
    if isinstance(found, Settled):
        sweep.resets, sweep.broken = found.resets, found.broken
    if not (flawed or rules.record):
        return True
    value, new = linearize(problem.f, buffer[:-1], inputs).value, spare[1:]
    if rules.record:
        residual = value - buffer[1:]
        sweep.rows.confine_(residual, start)
        state.maps[-1][start:stop] = residual.abs().amax(-1).cpu()
    if flawed:
        _repair(new, new, value, buffer[1:], problem.s0, sweep)
        sweep.broken = sweep.rows.take_frontier_(new, value, start)
    return True


def _extent(state: Workspace, rules: Rules, length: int) -> tuple[int, int, Tensor, OpenRows]:
    """The rows to sweep, the sequences that take part, and their open rows.

    A window that slides reaches `window` rows beyond each sequence's own frontier. A sequence that would reach beyond
    the rows at hand rests until the slowest ones have come up; it loses no iteration by that and does not feel it.
    """
    running = state.result == int(Result.RUNNING)
    end = state.frontier.new_full((), length)
    if rules.window >= length:
        return 0, length, running, OpenRows.of(torch.where(running, state.frontier, end), end.expand_as(state.frontier))
    spare = rules.window // 4 if state.frontier.numel() > 1 else 0
    rows = min(length, rules.window + spare)
    start = min(int(torch.where(running, state.frontier, end).min()), length - rows)
    hi = (state.frontier + rules.window).clamp(max=length)
    active = running & (hi <= start + rows)
    stop = int(torch.where(active, hi, 0).max())
    lo = torch.where(active, state.frontier, end)
    return start, stop, active, OpenRows.of(lo, torch.where(active, hi, end))


def _grid(problem: Problem, window: int) -> int:
    """Where scans are split (see `ScanPlan`): at tiles on a CPU, and at the size of a window that slides."""
    whole = problem.length if window >= problem.length else 1 << (window - 1).bit_length()
    if not _torch.on_host(problem.s0):
        return whole
    return min(whole, max(1, TILE_ELEMENTS * torch.get_num_threads() // problem.s0.shape[-1]))


def _tile(
    problem: Problem,
    method: LDSApproximation,
    state: Workspace,
    rules: Rules,
    sweep: Sweep,
    first: int,
    last: int,
    d_before: Tensor,
) -> Tensor:
    """Sweep the rows `[first, last)`; returns `d` of the last one."""
    prev, states = state.buffer[first:last], state.buffer[first + 1 : last + 1]
    derivatives = linearize(problem.f, prev, problem.inputs_at(first, last))
    value = derivatives.value
    residual = value - states
    rows, accepted = advance(sweep.rows, residual, value, prev, first, rules.rtol, rules.atol)
    rows.confine_(residual, first)
    sweep.rows, sweep.accepted_residual = rows, torch.maximum(sweep.accepted_residual, accepted)
    _measure(residual, value, rules, sweep)
    if rules.record:
        state.maps[-1][first:last] = residual.abs().amax(-1).cpu()
    if (
        _torch.on_host(value)
        and last == sweep.stop
        and torch.equal(converged(sweep, problem.length, rules), sweep.active)
    ):
        return d_before  # the sweep that finds everything solved needs no proposal
    age = state.sweeps if state.age is None else state.age[first:last].unsqueeze(-1)
    plan = rows.plan(first, _grid(problem, rules.window))
    lin = Linearization(prev, residual, derivatives, first, age, sweep.active, plan, d_before)
    d, state.carry = method.update(lin, state.carry)
    _check_update(method, d, residual)
    rows.confine_(d, first)
    new = torch.add(states, d, out=state.spare[first + 1 : last + 1])
    d_last = _repair(new, d, value, states, problem.s0, sweep)
    sweep.broken = sweep.broken | rows.take_frontier_(new, value, first)
    return d_last


def _check_update(method: LDSApproximation, d: Any, residual: Tensor) -> None:
    if not isinstance(d, Tensor) or d.shape != residual.shape or d.dtype != residual.dtype:
        got = f"{d.dtype} {tuple(d.shape)}" if isinstance(d, Tensor) else type(d).__name__
        raise ValueError(
            f"`{type(method).__name__}.update` must propose an update like the residual, {residual.dtype} "
            f"{tuple(residual.shape)}, got {got}."
        )


def _measure(residual: Tensor, value: Tensor, rules: Rules, sweep: Sweep) -> None:
    """The largest residual, and by how much it exceeds its relative part, per sequence; NaN where a residual is NaN."""
    largest = _largest(residual)
    sweep.residual = torch.maximum(sweep.residual, largest)
    if rules.rtol == 0:
        sweep.excess = sweep.residual
    else:
        if _torch.on_host(largest) and bool((sweep.excess > rules.atol).all()):
            return  # no sequence can converge in this sweep any more
        largest = residual.abs().sub_(value.abs(), alpha=rules.rtol).amax((0, -1))
        sweep.excess = torch.maximum(sweep.excess, largest)


def _largest(residual: Tensor) -> Tensor:
    """The largest absolute value of each sequence, `(*batch)`; NaN where there is one."""
    if residual[0, ..., 0].numel() > 1:
        return residual.abs().amax((0, -1))
    low, high = torch.aminmax(residual)  # one pass, and nothing allocated
    return torch.maximum(-low, high).view(residual.shape[1:-1])


def _repair(new: Tensor, d: Tensor, value: Tensor, states: Tensor, s0: Tensor, sweep: Sweep) -> Tensor:
    """Replace rows that are not finite by `f`'s value (the Jacobi step), or by `s0` where that is not finite either.

    Left as they were, states so large that `f` overflows would stay until the frontier reaches them. Counted.
    """
    if _torch.on_host(new) and math.isfinite(new.sum()):
        return d[-1]
    bad = ~new.isfinite().all(-1, keepdim=True)
    instead = torch.where(value.isfinite().all(-1, keepdim=True), value, s0)
    new.copy_(torch.where(bad, instead, new))
    sweep.resets = sweep.resets + bad.squeeze(-1).sum(0)
    return torch.where(bad[-1], instead[-1] - states[-1], d[-1])


def converged(sweep: Sweep, length: int, rules: Rules) -> Tensor:
    """The sequences whose residual is within tolerance in all rows to the end, `(*batch)`."""
    within = sweep.active & (sweep.excess <= rules.atol)
    return within if rules.window >= length else within & (sweep.rows.hi == length)


def _unseen(problem: Problem, state: Workspace) -> Tensor:
    return torch.full((problem.length, *state.frontier.shape), torch.nan, dtype=state.buffer.dtype)
