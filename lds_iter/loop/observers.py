"""Who looks on while the loop runs: the record, the progress bar, callbacks, and rules that stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.loop.contract import linearized
from lds_iter.loop.state import LoopState, Problem
from lds_iter.methods.rules import Asked
from lds_iter.solution import History, Progress, Result


def progress_of(state: LoopState) -> Progress:
    """What a callback gets: copies, so that neither side changes what the other has."""
    return Progress(
        state.count - 1,
        state.iterations.clone(),
        state.frontier.clone(),
        state.residual.clone(),
        state.result.clone(),
        state.resets.clone(),
        state.carry,
        lambda: state.states[1:].clone(),
        lambda: state.update,
    )


class Recorder:
    """Keeps the history of a solve on the CPU; one more evaluation of `f` an iteration."""

    def __init__(self) -> None:
        self._residuals: list[Tensor] = []
        self._maps: list[Tensor] = []
        self._accepted: list[Tensor] = []

    def __call__(self, problem: Problem, state: LoopState) -> None:
        self._residuals.append(state.residual.cpu().clone())
        self._accepted.append(state.frontier.cpu().clone())
        self._maps.append(self._map(problem, state).cpu())

    def _map(self, problem: Problem, state: LoopState) -> Tensor:
        """The largest residual of each row, `(T, *batch)`; what was not evaluated now stays as it was."""
        before = state.states.new_full((problem.length, *state.frontier.shape), torch.nan)
        if self._maps:
            before = self._maps[-1].to(before.device)
        proposal = state.proposal
        if proposal is None or not bool((proposal.reach > 0).any()):  # the last update accepted the last rows
            finished = state.frontier == problem.length
            return before.masked_fill(finished & (state.result == int(Result.SUCCESS)), 0)
        reach = int(proposal.reach.max())
        lowest = int(torch.where(proposal.reach > 0, state.frontier, problem.length).min())
        start = min(lowest, reach - 1)
        where = (start, reach, state.count)
        given = (state.states[start:reach], problem.inputs_at(start, reach))
        value = linearized(problem.f, *given, state.states, where).value
        residual = (value - state.states[start + 1 : reach + 1]).abs().amax(-1)
        times = torch.arange(problem.length, device=value.device).view(-1, *[1] * state.frontier.ndim)
        seen = times < proposal.reach
        new = before.clone()
        new[start:reach] = torch.where(times[start:reach] >= state.frontier, residual, 0)
        new[:start] = 0
        return torch.where(seen, new, before)

    def history(self) -> History:
        """All of it."""
        return History(torch.stack(self._residuals), torch.stack(self._maps), torch.stack(self._accepted))


def calls(callback: Callable[[Progress], object]) -> Callable[[Problem, LoopState], None]:
    """An observer that calls a function of the user's with a `Progress`."""

    def observe(problem: Problem, state: LoopState) -> None:  # noqa: ARG001
        callback(progress_of(state))

    return observe


def stops(rule: Asked) -> Callable[[Problem, LoopState], LoopState]:
    """An observer that ends the sequences for which a rule of the user's is true, except for those that wait.

    Args:
        rule: see `asked`.
    """

    def observe(problem: Problem, state: LoopState) -> LoopState:  # noqa: ARG001
        proposal = state.proposal
        takes_part = state.running if proposal is None else proposal.reach > 0
        wanted: Any = rule(progress_of(state), takes_part)
        shape = state.result.shape
        if not isinstance(wanted, Tensor) or wanted.dtype != torch.bool or wanted.shape != shape:
            got = f"{wanted.dtype} {tuple(wanted.shape)}" if isinstance(wanted, Tensor) else repr(wanted)
            raise TypeError(
                f"`stop` must return a bool for each sequence, torch.bool {tuple(shape)}, got {got}. Compare a field "
                "of its argument: `lambda progress: progress.residual < 1e-3`."
            )
        ended = state.running & takes_part & wanted.to(state.result.device)
        return replace(state, result=state.result.masked_fill(ended, int(Result.STOPPED)))

    return observe


@contextmanager
def progress_bar(length: int, show: bool) -> Iterator[Callable[[Problem, LoopState], None] | None]:
    """An observer that draws the accepted rows of the slowest sequence; None when it is not wanted."""
    if not show:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=length, unit="row", desc="solve") as bar:

        def observe(problem: Problem, state: LoopState) -> None:  # noqa: ARG001
            ended = state.result == Result.SUCCESS
            bar.n = int(state.frontier.masked_fill(ended, length).min())
            bar.set_postfix(iteration=int(state.iterations.max()), residual=f"{float(state.residual.max()):.1e}")

        yield observe
