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

from lds_iter.loop.state import LoopState, Problem
from lds_iter.recurrence import own_steps
from lds_iter.solution import Result


def front_of(state: LoopState, length: int) -> int:
    """The frontier of the slowest sequence without a result; `length` when there is none."""
    return int(state.frontier.masked_fill(~state.running, length).min())


def compiled_steps(problem: Problem, state: LoopState) -> LoopState | None:
    """All rows by the recurrence's own steps; None where it has none that serve.

    A sequence with a value that is not finite stays in front of that row, for the loop to find it.
    """
    own = own_steps(problem.f)
    states = None if own is None else own(problem.s0, problem.inputs)
    return None if states is None else _accept(problem, state, states, 0)


def take_steps(problem: Problem, state: LoopState, first: int, stop: int) -> LoopState:
    """Evaluate the rows `[first, stop)` one after the other; writes into the memory of `state`.

    Args:
        problem: what is solved.
        state: of the solve.
        first: the lowest frontier.
        stop: after the last row.
    """
    frontiers = state.frontier[state.running]
    highest = int(frontiers.max())
    rows, s = [], state.states[first : first + 1]
    for t, inputs in zip(range(first, stop), _rows(problem.inputs, first, stop), strict=True):
        s = problem.f(s, inputs)
        if t < highest:
            s = torch.where((state.frontier <= t).unsqueeze(-1), s, state.states[t + 1 : t + 2])
        rows.append(s)
    return _accept(problem, state, torch.cat(rows), first)


def _accept(problem: Problem, state: LoopState, block: Tensor, first: int) -> LoopState:
    """Take the values of the rows that begin at time `first`, as far as they are finite."""
    stop, running, frontier = first + block.shape[0], state.running, state.frontier
    reached = frontier.clamp(min=stop)
    if not (bool(block.sum().isfinite()) or bool(block.isfinite().all())):
        finite = block.isfinite().all(-1).to(torch.int64).cumprod(0).sum(0)
        reached = torch.maximum(frontier, (first + finite).clamp(max=stop))
    reached = torch.where(running, reached, frontier)
    target = state.states[first + 1 : stop + 1]
    if bool(((frontier == first) & (reached == stop)).all()):
        target.copy_(block)
    else:
        times = torch.arange(first, stop, device=frontier.device).view(-1, *[1] * frontier.ndim)
        mine = running & (times >= frontier) & (times < reached)
        target.copy_(torch.where(mine.unsqueeze(-1), block, target))
    done = running & (reached >= problem.length)
    return replace(
        state,
        proposal=None,
        frontier=reached,
        iterations=state.iterations + (reached - frontier),
        evaluations=state.evaluations + (reached - frontier),
        count=state.count + stop - first,
        result=state.result.masked_fill(done, int(Result.SUCCESS)),
        residual=torch.where(done, state.accepted_residual, state.residual),
    )


def _rows(inputs: Any, first: int, stop: int) -> Iterator[Any]:
    """The inputs of one row after the other, each leading with a time dimension of 1."""
    if isinstance(inputs, Tensor):
        yield from inputs[first:stop].split(1)
        return
    leaves, spec = pytree.tree_flatten(inputs)
    rows = [leaf[first:stop].split(1) if isinstance(leaf, Tensor) else [leaf] * (stop - first) for leaf in leaves]
    for row in zip(*rows, strict=True):
        yield pytree.tree_unflatten(list(row), spec)
