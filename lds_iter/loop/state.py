"""The data of the loop: the problem, the options, and the state that one iteration turns into the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.distributed.shards import TimeShards
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import Composable
from lds_iter.recurrence import Function, IterationRequest, IterationResult, own_fused_iteration, take_rows
from lds_iter.solution import Decision, Result


@dataclass(frozen=True)
class Problem:
    """A recurrence whose arguments have been checked.

    Attributes:
        f: the recurrence.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors, `(T, ...)`, or of the rows that this process holds.
        length: T.
        shards: which processes hold which time steps; None where this one holds all.
        fused_iteration: the iteration that `f` computes itself, looked up once; None where it has none.
    """

    f: Function
    s0: Tensor
    inputs: Any
    length: int
    shards: TimeShards | None = None
    fused_iteration: Callable[[IterationRequest], IterationResult | None] | None = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "fused_iteration", own_fused_iteration(self.f))

    @property
    def held(self) -> slice:
        """The times of the rows of this process's tensors."""
        return slice(0, self.length) if self.shards is None else self.shards.held

    @property
    def steps(self) -> int:
        """The time steps that this process holds; it has one row where it holds none."""
        return self.length if self.shards is None else self.shards.sizes[self.shards.rank]

    def inputs_at(self, start: int, stop: int) -> Any:
        """The inputs of the time steps `[start, stop)`."""
        held = self.held
        whole = start == held.start and stop == held.stop
        return self.inputs if whole else take_rows(self.inputs, start - held.start, stop - held.start)


@dataclass(frozen=True)
class LoopOptions:
    """How to iterate.

    Attributes:
        rtol, atol: of the stopping test on the residual.
        max_iters: the limit of updates per sequence; a tensor where the loop is compiled, so that it is not part of the
            graph.
        window: rows beyond the frontier that are evaluated at once; T is the textbook algorithm.
    """

    rtol: float
    atol: float
    max_iters: int | Tensor
    window: int


@dataclass(frozen=True)
class Proposal:
    """The update that an iteration has computed, and that the next one takes.

    Attributes:
        states: `s0` and the states that the update leads to, `(T + 1, *batch, D)`; valid in the rows `[start, stop)`.
        start, stop: the rows, counted from the first one that this process holds.
        moves: the sequences that the update is for, bool, `(*batch)`.
        reach: the time after the last row of each sequence that was evaluated; 0 where none was, int64, `(*batch)`.
        resets: proposed rows that were not finite and were replaced, int64, `(*batch)`.
        before: the proposed state before the first row, `(*batch, D)`, where another process holds it; else None.
    """

    states: Tensor
    start: int
    stop: int
    moves: Tensor
    reach: Tensor
    resets: Tensor
    before: Tensor | None = None


@dataclass(frozen=True)
class LoopState:
    """One iterate, and the update proposed from it. All fields but `proposal` belong to the same iterate.

    Where several processes share the time steps, `states`, `proposal`, `age` and `resets` are of the rows that this one
    holds, with the state before them in place of `s0`; everything else is of the whole.

    Attributes:
        states: `s0` and the current guess of all states, `(T + 1, *batch, D)`.
        proposal: the pending update; None before the first evaluation.
        frontier: rows accepted so far, per sequence, int64, `(*batch)`.
        result: `Result` codes, per sequence.
        iterations: updates made so far, per sequence.
        residual: the largest residual of the rows evaluated last, per sequence.
        accepted_residual: the largest residual at which a row was accepted, per sequence.
        evaluations: rows of `f` evaluated from the frontier on, per sequence.
        resets: rows replaced because they were not finite, per sequence.
        age: updates that each row has had, int32, `(T, *batch)`, in a sliding window; else None.
        carry: what the method remembers.
        count: evaluations along the guess so far.
        decisions: what a strategy decided.
        first: the time of the first row that this process holds.
    """

    states: Tensor
    proposal: Proposal | None
    frontier: Tensor
    result: Tensor
    iterations: Tensor
    residual: Tensor
    accepted_residual: Tensor
    evaluations: Tensor
    resets: Tensor
    age: Tensor | None
    carry: Any
    count: int = 0
    decisions: tuple[Decision, ...] = ()
    first: int = 0

    @property
    def update(self) -> Tensor:
        """The pending update `d`, `(T, *batch, D)`; zero where nothing is proposed."""
        d = torch.zeros_like(self.states[1:])
        if self.proposal is not None:
            rows = slice(1 + self.proposal.start, 1 + self.proposal.stop)
            moved = self.proposal.states[rows] - self.states[rows]
            d[self.proposal.start : self.proposal.stop] = torch.where(self.proposal.moves.unsqueeze(-1), moved, 0)
        return d

    @property
    def running(self) -> Tensor:
        """The sequences without a result, bool, `(*batch)`."""
        return self.result == int(Result.RUNNING)


class Observer(Protocol):
    """Called after every iteration with its state; may return another one, in which sequences have ended."""

    def __call__(self, problem: Problem, state: LoopState, /) -> LoopState | None: ...


class AbstractStrategy(Composable, ABC):
    """A strategy in place of a method: it chooses methods itself, iteration by iteration (see `lds_iter.auto`)."""

    @abstractmethod
    def run(self, problem: Problem, guess: Tensor, options: LoopOptions, observers: Sequence[Observer]) -> LoopState:
        """Solve, as `loop.run` does with one method."""

    @abstractmethod
    def for_adjoint(self) -> AbstractStrategy | LDSApproximation:
        """The strategy or method that solves the adjoint recurrence."""


def first_state(problem: Problem, method: LDSApproximation, guess: Tensor, options: LoopOptions) -> LoopState:
    """The state before the first iteration.

    Args:
        problem: what is to be solved.
        method: whose carry begins.
        guess: the states to begin with, `(T, *batch, D)`.
        options: how to iterate.
    """
    count = torch.zeros(problem.s0.shape[:-1], dtype=torch.int64, device=guess.device)
    real = guess.new_zeros(count.shape)
    sliding = options.window < problem.length
    before = problem.s0.unsqueeze(0)
    return LoopState(
        states=torch.cat([before if problem.shards is None else problem.shards.pass_on(guess[-1:], before), guess]),
        proposal=None,
        frontier=count,
        result=torch.full_like(count, int(Result.RUNNING)),
        iterations=count.clone(),  # compilers tell tensors from aliases
        residual=real,
        accepted_residual=real.clone(),
        evaluations=count.clone(),
        resets=count.clone(),
        age=count.new_zeros((len(guess), *count.shape), dtype=torch.int32) if sliding else None,
        carry=method.init(guess),
        first=problem.held.start,
    )


def take_proposal(state: LoopState, length: int, *, reuse: bool = False) -> LoopState:
    """Make the pending update the iterate of the sequences that go on.

    The frontier row of the update is exact, so one more row is accepted. A sequence is solved when it is the last row.

    Args:
        state: the iterate and its proposal.
        length: T.
        reuse: let the memory of `state` be overwritten; `state` must not be used again.
    """
    proposal = state.proposal
    if proposal is None:
        return state
    moves = proposal.moves & (state.result == int(Result.RUNNING))
    frontier = state.frontier + moves
    finished = moves & (frontier == length)
    states, spare = _moved(state, proposal, moves, reuse)
    if proposal.before is not None:
        states[0] = torch.where(moves.unsqueeze(-1), proposal.before, state.states[0])
    return replace(
        state,
        states=states,
        proposal=replace(proposal, states=spare, moves=torch.zeros_like(moves)),
        frontier=frontier,
        iterations=state.iterations + moves,
        resets=state.resets + torch.where(moves, proposal.resets, 0),
        age=None if state.age is None else _older(state, state.age, proposal, moves),
        residual=torch.where(finished, state.accepted_residual, state.residual),
        result=state.result.masked_fill(finished, int(Result.SUCCESS)),
    )


def _moved(state: LoopState, proposal: Proposal, moves: Tensor, reuse: bool) -> tuple[Tensor, Tensor]:
    """The states after the update, and memory of the same shape that is free to be overwritten."""
    whole = proposal.stop - proposal.start == len(state.states) - 1
    if whole and reuse and _torch.on_host(moves) and bool(moves.all()):
        return proposal.states, state.states
    rows = slice(1 + proposal.start, 1 + proposal.stop)
    if reuse:
        target = state.states[rows]
        target.copy_(torch.where(moves.unsqueeze(-1), proposal.states[rows], target))
        return state.states, proposal.states
    new = torch.where(moves.unsqueeze(-1), proposal.states[rows], state.states[rows])
    return torch.cat([state.states[: rows.start], new, state.states[rows.stop :]]), proposal.states


def _older(state: LoopState, age: Tensor, proposal: Proposal, moves: Tensor) -> Tensor:
    """The ages after one more update of the rows in the window."""
    times = torch.arange(state.first, state.first + len(age), device=age.device).view(-1, *[1] * moves.ndim)
    return age + ((times >= state.frontier) & (times < proposal.reach) & moves)
