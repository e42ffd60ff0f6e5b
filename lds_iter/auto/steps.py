"""Step-by-step evaluation of all rows that the loop has not accepted yet.

A step is an update of a window of one row: it counts as an iteration and as an evaluation, and its row is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.loop.contract import check_unwritten, note_where, versions
from lds_iter.loop.run import Interrupted
from lds_iter.loop.state import LoopState, Problem
from lds_iter.recurrence import check_value
from lds_iter.solution import Result


def front_of(state: LoopState, length: int) -> int:
    """The frontier of the slowest sequence without a result; `length` when there is none."""
    return int(state.frontier.masked_fill(~state.running, length).min())


def take_steps(problem: Problem, state: LoopState, first: int, stop: int) -> LoopState:
    """Evaluate the rows `[first, stop)` one after the other, from the lowest frontier on; see `accept_rows`.

    Raises:
        Interrupted: in place of a KeyboardInterrupt, with the rows evaluated so far.
    """
    highest = int(state.frontier[state.running].max())
    rows, s, t = [], state.states[first : first + 1], first
    try:
        for t, inputs in zip(range(first, stop), _rows(problem.inputs, first, stop), strict=True):
            before, version = s, versions((s,))
            s = check_value(problem.f(s, inputs), s)
            check_unwritten((before,), version, "`f`")
            if t < highest:
                s = torch.where((state.frontier <= t).unsqueeze(-1), s, state.states[t + 1 : t + 2])
            rows.append(s)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(accept_rows(problem, state, torch.cat(rows), first) if rows else state) from interrupt
    except Exception as error:
        note_where(error, "`f`", (t, t + 1, state.count + t - first))
        raise
    return accept_rows(problem, state, torch.cat(rows), first)


def accept_rows(problem: Problem, state: LoopState, block: Tensor, first: int) -> LoopState:
    """Take the exact values of rows that begin at time `first`; writes into the memory of `state`.

    A sequence with a value that is not finite stays in front of that row, for the loop to find it. The residual of the
    rows behind is not measured: it is NaN for a sequence that goes on.
    """
    stop, running, frontier = first + block.shape[0], state.running, state.frontier
    reached = frontier.clamp(min=stop)
    if not (bool(block.sum().isfinite()) or bool(block.isfinite().all())):
        finite = block.isfinite().all(-1).to(torch.int64).cumprod(0).sum(0)
        reached = torch.maximum(frontier, (first + finite).clamp(max=stop))
    reached = torch.where(running, reached, frontier)
    target = state.states[first + 1 : stop + 1]
    times = torch.arange(first, stop, device=frontier.device).view(-1, *[1] * frontier.ndim)
    mine = running & (times >= frontier) & (times < reached)
    target.copy_(block if bool(mine.all()) else torch.where(mine.unsqueeze(-1), block, target))
    done, gained = running & (reached >= problem.length), reached - frontier
    return replace(
        state,
        proposal=None,
        frontier=reached,
        iterations=state.iterations + gained,
        evaluations=state.evaluations + gained,
        count=state.count + stop - first,
        result=state.result.masked_fill(done, int(Result.SUCCESS)),
        residual=torch.where(done, state.accepted_residual, state.residual.masked_fill(running, torch.nan)),
    )


def _rows(inputs: Any, first: int, stop: int) -> Iterator[Any]:
    """The inputs of one row after the other, each leading with a time dimension of 1."""
    leaves, spec = pytree.tree_flatten(inputs)
    rows = [leaf[first:stop].split(1) if isinstance(leaf, Tensor) else [leaf] * (stop - first) for leaf in leaves]
    return (pytree.tree_unflatten(list(row), spec) for row in zip(*rows, strict=True))
