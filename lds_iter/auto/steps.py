"""Step-by-step evaluation of what the loop has left: from the frontier of each sequence, nothing accepted is lost.

A step is an update of a window of one row: it counts as an iteration and as an evaluation, and its row is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.loop.run import stopped, watch
from lds_iter.loop.state import Problem, Rules, Workspace
from lds_iter.solution import Result


def lowest(state: Workspace, length: int) -> int:
    """The frontier of the slowest sequence that still runs; `length` when none does."""
    running = state.result == Result.RUNNING
    return int(state.frontier.masked_fill(~running, length).min())


def take_steps(
    problem: Problem, state: Workspace, first: int, stop: int, now: Callable[[], float], warm: int = 0
) -> tuple[bool, float]:
    """Evaluate the rows `[first, stop)` one after the other.

    Args:
        problem: what is solved.
        state: of the solve.
        first: the lowest frontier.
        stop: after the last row.
        now: the clock.
        warm: rows that are not timed.

    Returns:
        Whether all values were finite, and the seconds of a step by the clock, without what storing the rows takes. A
        sequence with a value that was not finite stays in front of that row, for the loop to find it.
    """
    running, frontier = state.result == Result.RUNNING, state.frontier
    together = bool((frontier == first)[running].all())
    highest = first if together else int(frontier[running].max())
    rows, s, start = [], state.buffer[first : first + 1], now()
    for t, u in zip(range(first, stop), _rows(problem.inputs, first, stop), strict=True):
        start = now() if 0 < t - first == warm else start
        s = problem.f(s, u)
        if t < highest:
            s = torch.where((frontier <= t).unsqueeze(-1), s, state.buffer[t + 1 : t + 2])
        rows.append(s)
    seconds = (now() - start) / (stop - first - warm)
    block = torch.cat(rows)
    finite = bool(block.sum().isfinite()) or bool(block.isfinite().all())
    reached = _reached(block, running, frontier, first, stop) if not finite else frontier.clamp(min=stop)
    reached = torch.where(running, reached, frontier)
    target = state.buffer[first + 1 : stop + 1]
    if finite and together and bool(running.all()):
        target.copy_(block)
    else:
        times = torch.arange(first, stop, device=frontier.device).view(-1, *[1] * frontier.ndim)
        mine = running & (times >= frontier) & (times < reached)
        target.copy_(torch.where(mine.unsqueeze(-1), block, target))
    gained = reached - frontier
    state.frontier = reached
    state.iterations += gained
    state.evaluations += gained
    state.sweeps += stop - first
    return finite or not bool((running & (reached < stop)).any()), seconds


def finish(state: Workspace, length: int) -> None:
    """Give results to the sequences whose last row is accepted."""
    done = (state.result == Result.RUNNING) & (state.frontier >= length)
    state.result = state.result.masked_fill(done, int(Result.SUCCESS))
    state.residual = torch.where(done, state.accepted_residual, state.residual)


def show_steps(state: Workspace, rules: Rules, before: Tensor) -> None:
    """As after an evaluation in the loop: the record, callbacks, and the rule that may end it.

    Args:
        state: after the steps.
        rules: of the solve.
        before: the frontiers before them.
    """
    if rules.record:
        record_steps(state, before)
    watch(state, rules)
    stopped(state, state.result == Result.RUNNING, rules)


def record_steps(state: Workspace, before: Tensor) -> None:
    """Add an entry to the map of residuals: zero in the rows that are exact since the frontiers were `before`.

    The row in front of such a frontier is among them: the last commit took it from `f`, and nothing has looked since.
    """
    length = state.buffer.shape[0] - 1
    shape = (length, *before.shape)
    last = state.maps[-1] if state.maps else torch.full(shape, torch.nan, dtype=state.buffer.dtype)
    times = torch.arange(length).view(-1, *[1] * before.ndim)
    exact = (times >= before.cpu() - 1) | (last > state.accepted_residual.cpu())  # a window has not been there since
    state.maps.append(last.masked_fill(exact & (times < state.frontier.cpu()), 0))


def _reached(block: Tensor, running: Tensor, frontier: Tensor, first: int, stop: int) -> Tensor:
    """The new frontiers where some value is not finite."""
    good = block.isfinite().all(-1).to(torch.int64).cumprod(0).sum(0)
    return torch.where(running, torch.maximum(frontier, (first + good).clamp(max=stop)), frontier)


def _rows(inputs: Any, first: int, stop: int) -> Iterator[Any]:
    """The inputs of one row after the other, each leading with a time dimension of 1."""
    if isinstance(inputs, Tensor):
        yield from inputs[first:stop].split(1)
        return
    leaves, spec = pytree.tree_flatten(inputs)
    rows = [leaf[first:stop].split(1) if isinstance(leaf, Tensor) else [leaf] * (stop - first) for leaf in leaves]
    for row in zip(*rows, strict=True):
        yield pytree.tree_unflatten(list(row), spec)
