"""One iteration: take the pending update, evaluate `f` along it, measure, accept rows, and propose the next update.

    value_t = f(prev_t, u_t)                  prev_t = current guess of s_{t-1}; all t in one batched call
    r_t     = value_t - s_t                   the residual; zero for all t means solved
    d_t     = A_t d_{t-1} + G_t r_t           the method's proposal, one parallel scan
    s_t    += d_t

The scan runs on the update `d`, not on the states: the papers' form `s_t = A_t s_{t-1} + b_t` is equal on paper, and in
floating point loses the guarantee on expanding systems. The proposal takes `value_p` of the frontier row p as it is
(A_p = 0, G_p = I), so at least one row is accepted per iteration and T iterations suffice for any method.

`tiles` has the second and the third line, `frontier` the acceptance of rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lds_iter.loop.frontier import OpenRows
from lds_iter.loop.sharing import own_share
from lds_iter.loop.state import LoopOptions, LoopState, Problem, Proposal, take_proposal
from lds_iter.loop.tiles import Extent, Measured, by_tiles, within_tolerance
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import IterationRequest
from lds_iter.solution import Result


def iterate(problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions) -> LoopState:
    """One iteration, as a pure function: nothing that it is given changes.

    Args:
        problem: what is solved; see `start`.
        method: the LDS approximation.
        state: of the iteration before.
        options: see `LoopOptions`.

    Returns:
        The next iterate with its residual, its results, and the update proposed from it.
    """
    return evaluate(problem, method, take_proposal(state, problem.length), options)


def evaluate(
    problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions, *, reuse: bool = False
) -> LoopState:
    """Everything after the pending update has been taken; `reuse`: overwrite the memory of the old proposal."""
    running = state.result == int(Result.RUNNING)
    extent = _extent(problem.length, state, running, options)
    looks = extent.rows.extremes is not None or options.window < problem.length  # a sliding window looks anyway
    if looks and not bool(running.any()):
        return replace(state, count=state.count + 1)
    if problem.shards is not None:
        start, stop = own_share(problem.shards, extent.start, extent.stop, extent.rows)
        extent = replace(extent, start=start, stop=stop)
    room = _room(state, reuse)
    fused = _fused(problem, method, state, options, extent, room)
    if fused is None:
        measured, start, room, carry = by_tiles(problem, method, state, options, extent, room)
    else:
        measured, start, carry = fused, extent.start, state.carry
    evaluated = extent.rows.hi - extent.rows.lo
    state = replace(state, carry=carry, count=state.count + 1, evaluations=state.evaluations + evaluated)
    state, moves = _decide(state, measured, extent, options, problem.length)
    reach = torch.where(extent.active, measured.rows.hi, 0)
    rows = start - state.first, extent.stop - state.first
    before = _before(problem, state, room, rows)
    return replace(state, proposal=Proposal(room, *rows, moves, reach, measured.resets, before))


def _before(problem: Problem, state: LoopState, room: Tensor, rows: tuple[int, int]) -> Tensor | None:
    """The proposed state before the first row, `(*batch, D)`, from the process that holds it; else None.

    Args:
        problem: says who that is.
        state: the iterate.
        room: the proposed states of this process.
        rows: of `room` that hold proposals.
    """
    if problem.shards is None:
        return None
    last = room if rows[1] == len(room) - 1 else state.states
    return problem.shards.pass_on(last[-1], problem.s0)


def _room(state: LoopState, reuse: bool) -> Tensor:
    """Memory for the proposed states, with `s0` in its first row."""
    if reuse and state.proposal is not None:
        return state.proposal.states
    room = torch.empty_like(state.states)
    room[0] = state.states[0]
    return room


def _extent(length: int, state: LoopState, running: Tensor, options: LoopOptions) -> Extent:
    """The rows to evaluate, the sequences that take part, and their open rows.

    A sliding window reaches `window` rows beyond each sequence's own frontier. A sequence whose window would reach
    beyond `stop` waits until the slowest ones have caught up; waiting costs it no iteration.
    """
    end = state.frontier.new_full((), length)
    if options.window >= length:
        lo = torch.where(running, state.frontier, end)
        return Extent(0, length, running, OpenRows.of(lo, end.expand_as(lo)))
    spare = options.window // 4 if state.frontier.numel() > 1 else 0
    rows = min(length, options.window + spare)
    start = min(int(torch.where(running, state.frontier, end).min()), length - rows)
    hi = (state.frontier + options.window).clamp(max=length)
    active = running & (hi <= start + rows)
    stop = int(torch.where(active, hi, 0).max())
    lo = torch.where(active, state.frontier, end)
    return Extent(start, stop, active, OpenRows.of(lo, torch.where(active, hi, end)))


def _fused(
    problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions, extent: Extent, room: Tensor
) -> Measured | None:
    """The iteration computed by the recurrence's own code; None where it has none, or leaves this case to the loop."""
    own = problem.fused_iteration
    if own is None or torch.is_grad_enabled() or problem.shards is not None:
        return None
    start, stop, rows = extent.start, extent.stop, extent.rows
    states, proposal = state.states[start : stop + 1], room[start : stop + 1]
    inputs = problem.inputs_at(start, stop)
    request = IterationRequest(
        method, inputs, states, proposal, problem.s0, start, rows.lo, rows.hi, options.rtol, options.atol
    )
    found = own(request)
    if found is None:
        return None
    rows = OpenRows.of(found.lo, rows.hi)
    excess = found.residual if options.rtol == 0 else found.excess
    measured = Measured(rows, excess, found.residual, found.accepted, found.broken, found.resets)
    if found.finite:
        return measured
    value = problem.f(states[:-1], inputs)
    new, _, resets = rows.repair(proposal[1:], proposal[1:], states[1:], value, problem.s0)
    _, broken = rows.with_frontier(new, value, start)
    return replace(measured, broken=broken, resets=resets)


def _decide(
    state: LoopState, measured: Measured, extent: Extent, options: LoopOptions, length: int
) -> tuple[LoopState, Tensor]:
    """The state with results for the sequences that end here, with this iterate's residual; and those that go on."""
    active, rows = extent.active, measured.rows
    accepted = torch.maximum(state.accepted_residual, measured.accepted)
    solved = within_tolerance(measured, extent, options, length)
    moves = active & ~solved
    broken = moves & measured.broken
    moves = (moves ^ broken) & (rows.lo < rows.hi)
    result = state.result.masked_fill(solved, int(Result.SUCCESS)).masked_fill(broken, int(Result.NONFINITE))
    if not isinstance(options.max_iters, int) or state.count > options.max_iters:
        exhausted = moves & (state.iterations >= options.max_iters)
        result, moves = result.masked_fill(exhausted, int(Result.MAX_ITERS)), moves ^ exhausted
    state = replace(
        state,
        frontier=torch.where(active, rows.lo, state.frontier),
        accepted_residual=accepted,
        residual=torch.where(active, torch.maximum(accepted, measured.residual), state.residual),
        result=result,
    )
    return state, moves
