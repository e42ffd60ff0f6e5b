"""One iteration: take the pending update, evaluate `f` along it, measure, accept rows, and propose the next update.

    value_t = f(prev_t, u_t)                  prev_t = current guess of s_{t-1}; all t in one batched call
    r_t     = value_t - s_t                   the residual; zero for all t means solved
    d_t     = A_t d_{t-1} + G_t r_t           the method's proposal, one parallel scan
    s_t    += d_t

The scan runs on the update `d`, not on the states: the papers' form `s_t = A_t s_{t-1} + b_t` is equal on paper, and in
floating point loses the guarantee on expanding systems. The proposal takes `value_p` of the frontier row p as it is
(A_p = 0, G_p = I), so at least one row is accepted per iteration and T iterations suffice for any method.

On a CPU the rows of a method without a carry are evaluated in tiles that fit the cache. The last `d` of one tile starts
the scan of the next, so it is the same iteration in less memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization, linearize
from lds_iter.linear.cut import Cut
from lds_iter.loop.contract import linearized, proposed
from lds_iter.loop.frontier import OpenRows
from lds_iter.loop.sharing import accept_together, own_share
from lds_iter.loop.state import LoopOptions, LoopState, Problem, Proposal, take_proposal
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import IterationRequest, own_fused_iteration
from lds_iter.solution import Result

TILE_ELEMENTS = 1 << 18
"""Numbers of one sequence's tile per thread on a CPU (1 MiB in float32). Smaller ones fit a second-level cache better,
but the cost of dispatching operations outweighs that. The batch does not enter: where a scan is split decides how it
rounds, and the elements of a batch must not influence each other even there."""


@dataclass(frozen=True)
class Extent:
    """The extent of one iteration: the rows `[start, stop)`, the sequences that take part, and their open rows."""

    start: int
    stop: int
    active: Tensor
    rows: OpenRows


@dataclass(frozen=True)
class Measured:
    """Measurements over the rows evaluated so far, `(*batch)`.

    Attributes:
        rows: those still open.
        excess: by how much a residual exceeds the relative tolerance at most.
        residual: the largest one.
        accepted: the largest one among the rows accepted now.
        broken: whether `f` of the frontier row is not finite.
        resets: proposed rows that were replaced.
    """

    rows: OpenRows
    excess: Tensor
    residual: Tensor
    accepted: Tensor
    broken: Tensor
    resets: Tensor


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
    extent = _extent(problem, state, running, options)
    looks = extent.rows.extremes is not None or options.window < problem.length  # a sliding window looks anyway
    if looks and not bool(running.any()):
        return replace(state, count=state.count + 1)
    room = _room(state, reuse)
    fused = _fused(problem, method, state, options, extent, room)
    if fused is None:
        measured, start, room, carry = _by_tiles(problem, method, state, options, extent, room)
    else:
        measured, start, carry = fused, extent.start, state.carry
    evaluated = extent.rows.hi - extent.rows.lo
    state = replace(state, carry=carry, count=state.count + 1, evaluations=state.evaluations + evaluated)
    state, moves = _decide(state, measured, extent, options, problem.length)
    reach = torch.where(extent.active, measured.rows.hi, 0)
    rows = start - problem.held.start, extent.stop - problem.held.start
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


def _extent(problem: Problem, state: LoopState, running: Tensor, options: LoopOptions) -> Extent:
    """The rows to evaluate, the sequences that take part, and their open rows.

    A sliding window reaches `window` rows beyond each sequence's own frontier. A sequence whose window would reach
    beyond `stop` waits until the slowest ones have caught up; waiting costs it no iteration.
    """
    length = problem.length
    end = state.frontier.new_full((), length)
    if options.window >= length:
        lo = torch.where(running, state.frontier, end)
        rows = OpenRows.of(lo, end.expand_as(lo))
        return Extent(*own_share(problem.shards, 0, length, rows), running, rows)
    spare = options.window // 4 if state.frontier.numel() > 1 else 0
    rows = min(length, options.window + spare)
    start = min(int(torch.where(running, state.frontier, end).min()), length - rows)
    hi = (state.frontier + options.window).clamp(max=length)
    active = running & (hi <= start + rows)
    stop = int(torch.where(active, hi, 0).max())
    lo = torch.where(active, state.frontier, end)
    open_rows = OpenRows.of(lo, torch.where(active, hi, end))
    return Extent(*own_share(problem.shards, start, stop, open_rows), active, open_rows)


def _fused(
    problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions, extent: Extent, room: Tensor
) -> Measured | None:
    """The iteration computed by the recurrence's own code; None where it has none, or leaves this case to the loop."""
    own = own_fused_iteration(problem.f)
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
    value = linearize(problem.f, states[:-1], inputs).value
    new, _, resets = rows.repair(proposal[1:], proposal[1:], states[1:], value, problem.s0)
    _, broken = rows.with_frontier(new, value, start)
    return replace(measured, broken=broken, resets=resets)


def _by_tiles(
    problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions, extent: Extent, room: Tensor
) -> tuple[Measured, int, Tensor, Any]:
    """The iteration tile by tile: measurements, first proposed row, proposed states, and the method's carry."""
    zero = torch.zeros_like(state.residual)
    measured = Measured(extent.rows, zero, zero, zero, zero > 0, torch.zeros_like(state.resets))
    start, d, carry, parts = extent.start, torch.zeros_like(problem.s0), state.carry, []
    held, shared = problem.held.start, problem.shards is not None
    tiles = [(extent.start, extent.stop)] if shared else _tiles(method, state, extent, options.window >= problem.length)
    for first, last in tiles:
        if not shared and measured.rows.extremes is not None and measured.rows.extremes[0] >= last:
            start = last  # all rows of this tile are accepted
            continue
        tile = Extent(first, last, extent.active, measured.rows)
        lin, measured = _look(problem, state, options, tile, measured, d)
        if (
            extent.rows.extremes is not None
            and last == extent.stop
            and _all_solved(measured, extent, options, problem.length)
        ):
            break  # the iteration that finds everything solved needs no proposal
        out = None if torch.is_grad_enabled() else room[first - held + 1 : last - held + 1]
        new, measured, d, carry = _propose(problem, method, state, lin, measured, carry, out)
        parts.append(new)
    if torch.is_grad_enabled() and parts:
        room = torch.cat([state.states[: start + 1], *parts, state.states[extent.stop + 1 :]])
    return measured, start, room, carry


def _tiles(method: LDSApproximation, state: LoopState, extent: Extent, whole: bool) -> Iterator[tuple[int, int]]:
    """The bounds of the tiles. At full window they lie on a grid that begins at time 0."""
    start, stop = extent.start, extent.stop
    if state.carry is not None or extent.rows.extremes is None or not method.runs_forward:
        return iter([(start, stop)])  # asked first: a compiler cannot trace the number of threads
    size = max(1, TILE_ELEMENTS * torch.get_num_threads() // state.states.shape[-1])
    first = start + size - start % size if whole else start + size
    return itertools.pairwise([start, *range(first, stop, size), stop])


def _look(
    problem: Problem, state: LoopState, options: LoopOptions, tile: Extent, measured: Measured, d: Tensor
) -> tuple[Linearization, Measured]:
    """Evaluate `f` along the guess in one tile, accept rows, and measure the residual."""
    first, last = tile.start, tile.stop
    held = slice(first - problem.held.start, last - problem.held.start)
    prev, states = state.states[held], state.states[held.start + 1 : held.stop + 1]
    inputs = problem.inputs_at(first, last)
    derivatives = linearized(problem.f, prev, inputs, state.states, (first, last, state.count))
    value = derivatives.value
    if problem.shards is None:
        residual, measured = _accepted(value - states, value, prev, first, options, measured)
    else:
        found = accept_together(problem.shards, measured.rows, value - states, value, prev, first, options)
        residual, measured = found.residual, replace(measured, **found.measured)
    rows = measured.rows
    iteration = state.count if state.age is None else state.age[held].unsqueeze(-1)
    lowest, highest = (None, None) if rows.extremes is None else rows.extremes[:2]
    return (
        Linearization(
            prev, states, residual, derivatives, inputs, slice(first, last), problem.length, iteration, tile.active,
            _f=problem.f, _cut=Cut(first, rows.lo, lowest, highest), _end=rows.hi, _before=d, _shards=problem.shards,
        ),
        measured,
    )  # fmt: skip


def _accepted(
    residual: Tensor, value: Tensor, prev: Tensor, first: int, options: LoopOptions, measured: Measured
) -> tuple[Tensor, Measured]:
    """Accept rows of one tile. The residual, zero in the rows that are accepted, and all measurements so far."""
    rows, residual, accepted = measured.rows.accept(residual, value, prev, first, options.rtol, options.atol)
    largest, excess = _sizes(residual.detach(), value.detach(), options, measured)
    return residual, replace(
        measured,
        rows=rows,
        accepted=torch.maximum(measured.accepted, accepted),
        residual=torch.maximum(measured.residual, largest),
        excess=excess,
    )


def _propose(
    problem: Problem, method: LDSApproximation, state: LoopState, lin: Linearization, measured: Measured, carry: Any,
    out: Tensor | None,
) -> tuple[Tensor, Measured, Tensor, Any]:  # fmt: skip
    """The proposed states of one tile, what they add to the measurements, `d` of the last row, and the carry.

    `out` takes the states; None where autograd records.
    """
    first, last, value = lin.rows.start, lin.rows.stop, lin.derivatives.value
    d, carry = proposed(method, lin, carry, state.states, (first, last, state.count))
    new, d, held = measured.rows.hold(d, lin.states, value, problem.s0, first, out)
    broken, resets = measured.broken | held.broken, measured.resets + held.resets
    return new, replace(measured, broken=broken, resets=resets), d, carry


def _sizes(residual: Tensor, value: Tensor, options: LoopOptions, measured: Measured) -> tuple[Tensor, Tensor]:
    """The largest residual of this tile, and the largest excess over the relative tolerance so far, `(*batch)`."""
    largest = _largest(residual)
    if options.rtol == 0:
        return largest, torch.maximum(measured.residual, largest)
    if measured.rows.extremes is not None and bool((measured.excess > options.atol).all()):
        return largest, measured.excess  # no sequence can converge in this iteration any more
    excess = residual.abs().sub_(value.abs(), alpha=options.rtol).amax((0, -1))
    return largest, torch.maximum(measured.excess, excess)


def _largest(residual: Tensor) -> Tensor:
    """The largest absolute value of each sequence, `(*batch)`; NaN where there is one."""
    if residual[0, ..., 0].numel() > 1:
        return residual.abs().amax((0, -1))
    low, high = torch.aminmax(residual)  # one pass, and nothing allocated
    return torch.maximum(-low, high).view(residual.shape[1:-1])


def _decide(
    state: LoopState, measured: Measured, extent: Extent, options: LoopOptions, length: int
) -> tuple[LoopState, Tensor]:
    """The state with results for the sequences that end here, with this iterate's residual; and those that go on."""
    active, rows = extent.active, measured.rows
    accepted = torch.maximum(state.accepted_residual, measured.accepted)
    solved = _solved(measured, extent, options, length)
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


def _solved(measured: Measured, extent: Extent, options: LoopOptions, length: int) -> Tensor:
    """The sequences whose residual is within tolerance in all rows to the end, `(*batch)`."""
    within = extent.active & (measured.excess <= options.atol)
    return within if options.window >= length else within & (measured.rows.hi == length)


def _all_solved(measured: Measured, extent: Extent, options: LoopOptions, length: int) -> bool:
    return torch.equal(_solved(measured, extent, options, length), extent.active)
