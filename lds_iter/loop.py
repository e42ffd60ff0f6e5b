"""The one loop: sweep over the guess, decide per sequence, commit, slide.

    value_t = f(prev_t, u_t)                  prev_t = current guess of s_{t-1}; all t in one batched call
    r_t     = value_t - s_t                   the residual; zero for all t means solved
    d_t     = A_t d_{t-1} + G_t r_t           the method's proposal, one parallel scan
    s_t    += d_t

The scan runs on the update `d`, not on the states: the papers' form `s_t = A_t s_{t-1} + b_t` is equal on paper, and in
floating point loses the guarantee on expanding systems. With every commit the frontier row p takes `value_p` as it is
(A_p = 0, G_p = I), so at least one row is accepted per iteration and T iterations suffice for any method.

A sweep only proposes. What is returned, states, residual, result and counts, always belongs to one and the same
iterate: the last one whose residual was evaluated, or one that is exact by construction.

On a CPU the rows of a forward-in-time method are swept in tiles that fit the cache, the last `d` of one tile starting
the scan of the next: the same iteration, in less memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.frontier import OpenRows, advance
from lds_iter.linearization import Linearization, linearize
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.solution import Progress, Result

TILE_ELEMENTS = 1 << 18
"""Numbers of one sequence's tile per thread on a CPU (1 MiB in float32). Smaller ones fit a second-level cache better,
but the cost of dispatching operations outweighs that. The batch does not enter: where a scan is split decides how it
rounds, and batch mates must not feel each other even there."""


@dataclass(frozen=True)
class Problem:
    """A recurrence whose arguments have been checked. `s0`: `(*batch, D)`; leaves of `inputs`: `(T, ...)`."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    length: int

    def inputs_at(self, start: int, stop: int) -> Any:
        if start == 0 and stop == self.length:
            return self.inputs
        return pytree.tree_map(lambda leaf: leaf[start:stop], self.inputs)


@dataclass(frozen=True)
class Rules:
    """How to run the loop: tolerances on the residual, the iteration limit, the window, and who watches."""

    rtol: float
    atol: float
    max_iters: int
    window: int
    record: bool
    observers: tuple[Callable[[Progress], object], ...]


@dataclass
class Run:
    """What the loop works on.

    `buffer` holds s0 and then the states, so that states and predecessors are views of it; `spare`, of the same layout,
    takes the proposals.
    """

    buffer: Tensor
    spare: Tensor
    frontier: Tensor
    result: Tensor
    iterations: Tensor
    residual: Tensor
    accepted_residual: Tensor
    evaluations: Tensor
    resets: Tensor
    age: Tensor | None
    carry: Any
    sweeps: int = 0
    residuals: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    fronts: list[Tensor] = field(default_factory=list)

    @staticmethod
    def start(problem: Problem, method: LDSApproximation, guess: Tensor, rules: Rules) -> Run:
        batch = problem.s0.shape[:-1]
        count = torch.zeros(batch, dtype=torch.int64, device=guess.device)
        real = guess.new_zeros(batch)
        windowed = rules.window < problem.length
        age = count.new_zeros((problem.length, *batch), dtype=torch.int32) if windowed else None
        buffer = torch.cat([problem.s0.unsqueeze(0), guess])
        spare = torch.empty_like(buffer)
        spare[0] = problem.s0
        return Run(
            buffer=buffer,
            spare=spare,
            frontier=count,
            result=torch.full_like(count, int(Result.RUNNING)),
            iterations=count.clone(),
            residual=real,
            accepted_residual=real.clone(),
            evaluations=count.clone(),
            resets=count.clone(),
            age=age,
            carry=method.init(guess),
        )


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


def run(problem: Problem, method: LDSApproximation, guess: Tensor, rules: Rules) -> Run:
    """Iterate until every sequence has a result."""
    state = Run.start(problem, method, guess, rules)
    stop = _StopFlag()
    while True:
        sweep = _sweep(problem, method, state, rules)
        moves = _decide(state, sweep, problem.length, rules)
        _watch(state, rules)
        finished = _commit(state, sweep, moves, problem.length)
        if stop.posted((state.result != Result.RUNNING).all()):
            _watch_end(state, finished, rules)
            return state


class _StopFlag:
    """The only place where the loop waits for the device.

    On an accelerator the flag travels to the host while the next iteration is already queued, and is read one iteration
    late: a finished solve runs one more iteration, which its results ignore.
    """

    def __init__(self) -> None:
        self._waiting: tuple[Tensor, torch.cuda.Event] | None = None

    def posted(self, flag: Tensor) -> bool:
        """Take this iteration's flag; returns it, or on an accelerator the one of the iteration before."""
        if flag.device.type != "cuda":
            return bool(flag)
        before, event = self._waiting, torch.cuda.Event()
        self._waiting = (flag.to("cpu", non_blocking=True), event)
        event.record()
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])


def _extent(state: Run, rules: Rules, length: int) -> tuple[int, int, Tensor, OpenRows]:
    """The rows to sweep, the sequences that take part, and their open rows.

    A window that slides reaches `window` rows beyond each sequence's own frontier. A sequence that would reach beyond
    the rows at hand rests until the slowest ones have come up; it loses no iteration by that and does not feel it.
    """
    running = state.result == Result.RUNNING
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


def _sweep(problem: Problem, method: LDSApproximation, state: Run, rules: Rules) -> Sweep:
    """Evaluate `f` along the guess, tile by tile, and collect proposals and residuals."""
    start, stop, active, rows = _extent(state, rules, problem.length)
    zero = torch.zeros_like(state.residual)
    state.evaluations += torch.where(active, rows.hi - rows.lo, 0)
    sweep = Sweep(start, stop, active, rows, zero, zero, zero, zero > 0, torch.zeros_like(state.resets))
    if rules.record:
        state.maps.append(state.maps[-1].clone() if state.maps else _unseen(problem, state))
    d_before = torch.zeros_like(problem.s0)
    grid = _grid(problem, rules.window)
    forward = isinstance(method, TransitionApproximation) and problem.s0.device.type == "cpu"
    bounds = [start, *range(start + grid - start % grid, stop, grid), stop] if forward else [start, stop]
    for first, last in itertools.pairwise(bounds):
        if rows.passed(last):
            sweep.start = last
        else:
            d_before = _tile(problem, method, state, rules, sweep, first, last, d_before)
    state.sweeps += 1
    return sweep


def _grid(problem: Problem, window: int) -> int:
    """Where scans are split (see `ScanPlan`): at tiles on a CPU, and at the size of a window that slides."""
    whole = problem.length if window >= problem.length else 1 << (window - 1).bit_length()
    if problem.s0.device.type != "cpu":
        return whole
    return min(whole, max(1, TILE_ELEMENTS * torch.get_num_threads() // problem.s0.shape[-1]))


def _tile(
    problem: Problem,
    method: LDSApproximation,
    state: Run,
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
    on_host = value.device.type == "cpu"
    if on_host and last == sweep.stop and bool((_converged(sweep, problem.length, rules) == sweep.active).all()):
        return d_before  # the sweep that finds everything solved needs no proposal
    age = state.sweeps if state.age is None else state.age[first:last].unsqueeze(-1)
    plan = rows.plan(first, _grid(problem, rules.window))
    lin = Linearization(prev, residual, derivatives, first, age, plan, d_before)
    d, state.carry = method.update(lin, state.carry)
    _check_update(method, d, residual)
    rows.confine_(d, first)
    new = torch.add(states, d, out=state.spare[first + 1 : last + 1])
    d_last = _repair(new, d, value, states, sweep)
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
    size = residual.abs()
    largest = size.amax((0, -1))
    sweep.residual = torch.maximum(sweep.residual, largest)
    if rules.rtol > 0:
        if size.device.type == "cpu" and bool((sweep.excess > rules.atol).all()):
            return  # no sequence can converge in this sweep any more
        largest = size.sub_(value.abs(), alpha=rules.rtol).amax((0, -1))
    sweep.excess = torch.maximum(sweep.excess, largest)


def _repair(new: Tensor, d: Tensor, value: Tensor, states: Tensor, sweep: Sweep) -> Tensor:
    """Replace rows that are not finite by `f`'s value (the Jacobi step), or leave them as they were; count them."""
    if new.device.type == "cpu" and bool(new.sum().isfinite()):
        return d[-1]
    bad = ~new.isfinite().all(-1, keepdim=True)
    instead = torch.where(value.isfinite().all(-1, keepdim=True), value, states)
    new.copy_(torch.where(bad, instead, new))
    sweep.resets = sweep.resets + bad.squeeze(-1).sum(0)
    return torch.where(bad[-1], instead[-1] - states[-1], d[-1])


def _converged(sweep: Sweep, length: int, rules: Rules) -> Tensor:
    return sweep.active & (sweep.rows.hi == length) & (sweep.excess <= rules.atol)


def _decide(state: Run, sweep: Sweep, length: int, rules: Rules) -> Tensor:
    """Give results to the sequences that are done, with this very iterate's residual; true for those that go on."""
    lo, hi, active = sweep.rows.lo, sweep.rows.hi, sweep.active
    state.frontier = torch.where(active, lo, state.frontier)
    state.accepted_residual = torch.where(
        active, torch.maximum(state.accepted_residual, sweep.accepted_residual), state.accepted_residual
    )
    state.residual = torch.where(active, torch.maximum(state.accepted_residual, sweep.residual), state.residual)
    converged = _converged(sweep, length, rules)
    broken = active & ~converged & sweep.broken
    exhausted = active & ~converged & ~broken & (lo < hi) & (state.iterations >= rules.max_iters)
    for ended, code in (converged, Result.SUCCESS), (broken, Result.NONFINITE), (exhausted, Result.MAX_ITERS):
        state.result = state.result.masked_fill(ended, int(code))
    return active & ~converged & ~broken & ~exhausted & (lo < hi)


def _commit(state: Run, sweep: Sweep, moves: Tensor, length: int) -> Tensor:
    """Make the proposal the iterate of the sequences that go on; true for those whose last row that accepts."""
    on_host = moves.device.type == "cpu"
    if on_host and not bool(moves.any()):
        return moves
    whole = sweep.stop - sweep.start == length
    if on_host and whole and bool(moves.all()):
        state.buffer, state.spare = state.spare, state.buffer
    else:
        rows = slice(1 + sweep.start, 1 + sweep.stop)
        target = state.buffer[rows]
        target.copy_(torch.where(moves.unsqueeze(-1), state.spare[rows], target))
    if state.age is not None:
        grown = sweep.rows.mask(sweep.start, sweep.stop - sweep.start).squeeze(-1) & moves
        state.age[sweep.start : sweep.stop] += grown
    state.iterations += moves
    state.resets += torch.where(moves, sweep.resets, 0)
    state.frontier = state.frontier + moves.to(torch.int64)
    finished = moves & (state.frontier == length)
    state.residual = torch.where(finished, state.accepted_residual, state.residual)
    state.result = state.result.masked_fill(finished, int(Result.SUCCESS))
    return finished


def _unseen(problem: Problem, state: Run) -> Tensor:
    return torch.full((problem.length, *state.frontier.shape), torch.nan, dtype=state.buffer.dtype)


def _watch(state: Run, rules: Rules) -> None:
    if rules.record:
        state.residuals.append(state.residual.cpu())
        state.fronts.append(state.frontier.cpu())
    if rules.observers:
        progress = Progress(state.sweeps - 1, state.iterations, state.frontier, state.residual, state.result)
        for observer in rules.observers:
            observer(progress)


def _watch_end(state: Run, finished: Tensor, rules: Rules) -> None:
    """Show the last iterate too where no evaluation followed it, because its commit accepted the last row."""
    if not (rules.record or rules.observers) or not bool(finished.any()):
        return
    if rules.record:
        state.maps.append(state.maps[-1].masked_fill(finished.cpu(), 0))
    state.sweeps += 1
    _watch(state, rules)
