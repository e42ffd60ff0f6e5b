"""Observers of the running loop: the record, the progress bar, callbacks, and rules that stop it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.distributed.shards import TimeShards
from lds_iter.loop.contract import linearized
from lds_iter.loop.run import Interrupted
from lds_iter.loop.state import LoopState, Problem
from lds_iter.methods.rules import Asked
from lds_iter.solution import History, Progress, Result


def progress_of(problem: Problem, state: LoopState) -> Progress:
    """The argument of a callback. It holds copies, so that neither the callback nor the loop can change the other's."""
    shards, stepped = problem.shards, state.proposal is None

    def update() -> Tensor:
        d = torch.full_like(state.states[1:], torch.nan) if stepped else state.update
        return d if shards is None else shards.whole(d)

    return Progress(
        state.count - 1,
        state.iterations.clone(),
        state.frontier.clone(),
        state.residual.clone(),
        state.result.clone(),
        all_resets(problem, state).clone(),
        state.carry,
        lambda: state.states[1:].clone() if shards is None else shards.whole(state.states[1:]),
        update,
        stepped,
    )


def all_resets(problem: Problem, state: LoopState) -> Tensor:
    """Rows replaced because they were not finite, per sequence, those that other processes hold included."""
    return state.resets if problem.shards is None else problem.shards.total(state.resets)


class Recorder:
    """Keeps the history of a solve on the CPU, at the cost of one more evaluation of `f` per iteration."""

    def __init__(self) -> None:
        self._residuals: list[Tensor] = []
        self._maps: list[Tensor] = []
        self._accepted: list[Tensor] = []
        self._resets: list[Tensor] = []
        self._numbers: list[dict[str, Tensor]] = []
        self._shards: TimeShards | None = None

    def __call__(self, problem: Problem, state: LoopState) -> None:
        self._shards = problem.shards
        self._residuals.append(state.residual.cpu().clone())
        self._accepted.append(state.frontier.cpu().clone())
        self._resets.append(all_resets(problem, state).cpu().clone())
        self._numbers.append({name: x.cpu().double() for name, x in numbers_of(state.carry, state.frontier).items()})
        self._maps.append(self._map(problem, state).cpu())

    def _map(self, problem: Problem, state: LoopState) -> Tensor:
        """The largest residual of each row held, `(T, *batch)`; rows that were not evaluated keep their last value."""
        held, proposal = problem.held, state.proposal
        before = state.states.new_full((held.stop - held.start, *state.frontier.shape), torch.nan)
        if self._maps:
            before = self._maps[-1].to(before.device)
        if proposal is None or not bool((proposal.reach > 0).any()):  # the last update accepted the last rows
            finished = state.frontier == problem.length
            return before.masked_fill(finished & (state.result == int(Result.SUCCESS)), 0)
        reach = int(proposal.reach.max())
        lowest = int(torch.where(proposal.reach > 0, state.frontier, problem.length).min())
        start, stop = max(min(lowest, reach - 1), held.start), min(reach, held.stop)
        new, times = before.clone(), _column(torch.arange(held.start, held.stop, device=before.device), state.frontier)
        if start < stop:
            rows, at = slice(start - held.start, stop - held.start), (start, stop, state.count)
            inputs = problem.inputs_at(start, stop)
            value = linearized(problem.f, state.states[rows], inputs, state.states, at).value
            residual = (value - state.states[rows.start + 1 : rows.stop + 1]).abs().amax(-1)
            new[rows] = torch.where(times[rows] >= state.frontier, residual, 0)
        new[: max(0, start - held.start)] = 0
        return torch.where(times < proposal.reach, new, before)

    def history(self) -> History:
        """The whole history."""
        rows = (self._residuals, self._maps, self._accepted, self._resets)
        residual, residual_map, accepted, resets = (torch.stack(row) for row in rows)
        if self._shards is not None:
            residual_map = self._shards.whole(residual_map.transpose(0, 1)).transpose(0, 1)
        names = dict.fromkeys(name for row in self._numbers for name in row)
        unknown = torch.full(accepted.shape[1:], torch.nan, dtype=torch.float64, device=accepted.device)
        numbers = {name: torch.stack([row.get(name, unknown) for row in self._numbers]) for name in names}
        return History(residual, residual_map, accepted, resets, numbers)


def _column(times: Tensor, like: Tensor) -> Tensor:
    """Times, `(n)`, in the dimensions of rows, `(n, 1, ..., 1)`; `like`: `(*batch)`."""
    return times.view(-1, *[1] * like.ndim)


def numbers_of(carry: Any, like: Tensor, name: str = "") -> dict[str, Tensor]:
    """The tensors of a carry that have one number per sequence, by their names: `inner.k` of nested dataclasses.

    Args:
        carry: what a method remembers: a tensor, a dataclass, tuple, list or dict of such, or anything else.
        like: a tensor `(*batch)`.
        name: of the carry itself; a tensor without one is called `carry`.
    """
    if isinstance(carry, Tensor):
        return {name or "carry": carry.detach()} if carry.shape == like.shape else {}
    if dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        parts = {field.name: getattr(carry, field.name) for field in dataclasses.fields(carry)}
    elif isinstance(carry, tuple | list):
        parts = {str(index): part for index, part in enumerate(carry)}
    else:
        parts = carry if isinstance(carry, dict) else {}
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found |= numbers_of(part, like, f"{name}.{key}" if name else str(key))
    return found


def calls(callback: Callable[[Progress], object]) -> Callable[[Problem, LoopState], None]:
    """An observer that calls a function of the user's with a `Progress`."""

    def observe(problem: Problem, state: LoopState) -> None:
        with _keeping(state):
            callback(progress_of(problem, state))

    return observe


@contextmanager
def _keeping(state: LoopState) -> Iterator[None]:
    """An error of a user's function ends the solve, which keeps the state reached."""
    try:
        yield
    except Exception as error:
        raise Interrupted(state) from error


def stops(rule: Asked) -> Callable[[Problem, LoopState], LoopState]:
    """An observer that ends the sequences for which a rule of the user's is true, except for those that wait.

    Args:
        rule: see `asked`.
    """

    def observe(problem: Problem, state: LoopState) -> LoopState:
        proposal = state.proposal
        takes_part = state.running if proposal is None else proposal.reach > 0
        with _keeping(state):
            wanted: Any = rule(progress_of(problem, state), takes_part)
        shape = state.result.shape
        if not isinstance(wanted, Tensor) or wanted.dtype != torch.bool or wanted.shape != shape or wanted.is_meta:
            meta = " on meta, which holds no numbers" if isinstance(wanted, Tensor) and wanted.is_meta else ""
            got = f"{wanted.dtype} {tuple(wanted.shape)}{meta}" if isinstance(wanted, Tensor) else repr(wanted)
            raise TypeError(
                f"`stop` must return a bool for each sequence, torch.bool {tuple(shape)}, got {got}. Compare a field "
                "of its argument: `lambda progress: progress.residual < 1e-3`."
            )
        wanted = wanted.to(state.result.device)
        if problem.shards is not None:  # clocks tell each process another time
            wanted = problem.shards.of_first_rank(wanted)
        ended = state.running & takes_part & wanted
        return replace(state, result=state.result.masked_fill(ended, int(Result.STOPPED)))

    return observe


@contextmanager
def progress_bar(
    length: int, show: bool, *, hidden: bool = False
) -> Iterator[Callable[[Problem, LoopState], None] | None]:
    """An observer that draws a bar of the accepted rows of the slowest sequence; None if `show` is false.

    Args:
        length: T.
        show: whether there is a bar.
        hidden: whether another process draws it. This one observes too, for all have as many observers.
    """
    if not show:
        yield None
        return
    if hidden:
        yield lambda problem, state: None  # noqa: ARG005
        return
    from tqdm.auto import tqdm

    with tqdm(total=length, unit="row", desc="solve") as bar:

        def observe(problem: Problem, state: LoopState) -> None:  # noqa: ARG001
            ended = state.result == Result.SUCCESS
            bar.n = int(state.frontier.masked_fill(ended, length).min())
            bar.set_postfix(iteration=int(state.iterations.max()), residual=f"{float(state.residual.max()):.1e}")

        yield observe
