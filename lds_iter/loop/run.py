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
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter._torch import StopFlag
from lds_iter.loop.iteration import Sweep, converged, sweep_over
from lds_iter.loop.state import AbstractStrategy, Problem, Rules, Workspace
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import Progress, Result

Body = Callable[[Problem, LDSApproximation, Workspace, Rules], Tensor]
"""One iteration; true for the sequences whose last row it accepted."""


def iterate(problem: Problem, method: LDSApproximation, state: Workspace, rules: Rules) -> Tensor:
    """The plain `Body`."""
    sweep = sweep_over(problem, method, state, rules)
    moves = _decide(state, sweep, problem.length, rules)
    moves = stopped(state, moves, rules)
    watch(state, rules)
    return _commit(state, sweep, moves, problem.length)


def run(
    problem: Problem,
    method: LDSApproximation | AbstractStrategy,
    guess: Tensor,
    rules: Rules,
    body: Body = iterate,
) -> Workspace:
    """Repeat `body` until every sequence has a result."""
    if isinstance(method, AbstractStrategy):
        return method.run(problem, guess, rules)
    state = Workspace.start(problem, method, guess, rules)
    stop = StopFlag(lag=_torch.lags(problem.s0) and not rules.watched(problem.length))
    while not ended(state, body(problem, method, state, rules), rules, stop):
        pass
    return state


def ended(state: Workspace, finished: Tensor, rules: Rules, stop: StopFlag) -> bool:
    """After an iteration that accepted the last rows of the sequences `finished`: whether all are known to be done."""
    if not stop.posted((state.result != Result.RUNNING).all()):
        return False
    _watch_end(state, finished, rules)
    return True


def _decide(state: Workspace, sweep: Sweep, length: int, rules: Rules) -> Tensor:
    """Give results to the sequences that are done, with this very iterate's residual; true for those that go on."""
    active = sweep.active
    state.frontier = torch.where(active, sweep.rows.lo, state.frontier)
    state.accepted_residual = torch.maximum(state.accepted_residual, sweep.accepted_residual)
    state.residual = torch.where(active, torch.maximum(state.accepted_residual, sweep.residual), state.residual)
    solved = converged(sweep, length, rules)
    moves = active & ~solved
    broken = moves & sweep.broken
    moves = (moves ^ broken) & (sweep.rows.lo < sweep.rows.hi)
    state.result = state.result.masked_fill(solved, int(Result.SUCCESS)).masked_fill(broken, int(Result.NONFINITE))
    if isinstance(rules.max_iters, int) and state.sweeps <= rules.max_iters:
        return moves  # no sequence has had as many iterations
    exhausted = moves & (state.iterations >= rules.max_iters)
    state.result = state.result.masked_fill(exhausted, int(Result.MAX_ITERS))
    return moves ^ exhausted


def stopped(state: Workspace, moves: Tensor, rules: Rules) -> Tensor:
    """End the sequences that the user's rule wants to end at this iterate; true for those that still go on."""
    if rules.stop is None:
        return moves
    wanted = rules.stop(_progress(state))
    if not isinstance(wanted, Tensor) or wanted.dtype != torch.bool or wanted.shape != moves.shape:
        got = f"{wanted.dtype} {tuple(wanted.shape)}" if isinstance(wanted, Tensor) else repr(wanted)
        raise TypeError(
            f"`stop` must return a bool for each sequence, torch.bool {tuple(moves.shape)}, got {got}. Compare a field "
            "of its argument: `lambda progress: progress.residual < 1e-3`."
        )
    state.result = state.result.masked_fill(moves & wanted, int(Result.STOPPED))
    return moves & ~wanted


def _commit(state: Workspace, sweep: Sweep, moves: Tensor, length: int) -> Tensor:
    """Make the proposal the iterate of the sequences that go on; true for those whose last row that accepts."""
    movers = int(moves.sum()) if _torch.on_host(moves) else None
    if movers == 0:
        return moves
    everyone = movers == moves.numel()
    if everyone and sweep.stop - sweep.start == length:
        state.buffer, state.spare = state.spare, state.buffer
    else:
        rows = slice(1 + sweep.start, 1 + sweep.stop)
        target = state.buffer[rows]
        target.copy_(torch.where(moves.unsqueeze(-1), state.spare[rows], target))
    if state.age is not None:
        grown = sweep.rows.mask(sweep.start, sweep.stop - sweep.start).squeeze(-1) & moves
        state.age[sweep.start : sweep.stop] += grown
    state.iterations += moves
    state.resets += sweep.resets if everyone else torch.where(moves, sweep.resets, 0)
    state.frontier = state.frontier + moves
    finished = moves & (state.frontier == length)
    state.residual = torch.where(finished, state.accepted_residual, state.residual)
    state.result = state.result.masked_fill(finished, int(Result.SUCCESS))
    return finished


def watch(state: Workspace, rules: Rules) -> None:
    """Show the iterate to all who look on."""
    if rules.record:
        state.residuals.append(state.residual.cpu())
        state.fronts.append(state.frontier.cpu())
    if rules.observers:
        progress = _progress(state)
        for observer in rules.observers:
            observer(progress)


def _progress(state: Workspace) -> Progress:
    return Progress(state.sweeps - 1, state.iterations, state.frontier, state.residual, state.result)


def _watch_end(state: Workspace, finished: Tensor, rules: Rules) -> None:
    """Show the last iterate too where no evaluation followed it, because its commit accepted the last row."""
    if not (rules.record or rules.observers) or not bool(finished.any()):
        return
    if rules.record:
        state.maps.append(state.maps[-1].masked_fill(finished.cpu(), 0))
    state.sweeps += 1
    watch(state, rules)
