"""One solve under way: the state of the loop, the clock, what was lost, and the decisions so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto.steps import accept_rows, front_of, take_steps
from lds_iter.auto.table import BASE
from lds_iter.loop.run import go_on
from lds_iter.loop.state import LoopOptions, LoopState, Observer, Problem, first_state, take_proposal
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.recurrence import own_steps
from lds_iter.solution import Decision

STEPS_PER_CHECK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of observers."""


@dataclass
class Solving:
    """The solve that an attempt, and the race around it, work on; the first attributes are those of `Auto`.

    Attributes:
        state: of the loop.
        front: rows that the slowest sequence has accepted.
        before: evaluations before the present method was entered.
        lost: seconds of attempts, less those that the rows accepted by them would have taken in the fastest known way.
        decisions: so far.
    """

    contenders: tuple[LDSApproximation, ...]
    clock: Callable[[Tensor], float]
    problem: Problem
    guess: Tensor
    options: LoopOptions
    observers: Sequence[Observer]
    base: str
    kernel: Callable[[], Any] | None
    state: LoopState = field(init=False)
    front: int = 0
    before: int = 0
    lost: float = 0.0
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = first_state(self.problem, Jacobi(), self.guess, self.options)

    @property
    def over(self) -> bool:
        """Whether every sequence has a result."""
        return not bool(self.state.running.any())

    def now(self) -> float:
        """Seconds on the clock."""
        return self.clock(self.problem.s0)

    def decide(self, place: int, why: str, window: int | None = None, seconds: tuple[float, ...] = ()) -> None:
        """Note a decision; `seconds`: for all rows, by the choice and without a method."""
        choice = self.base if place == BASE else str(self.contenders[place])
        choice += "" if window in (None, self.problem.length) else f" in windows of {window} rows"
        times = ((1 - self.front / self.problem.length) * each for each in seconds)
        self.decisions.append(Decision(self.before + self.state.count, self.front, choice, why, *times))

    def enter(self, place: int) -> None:
        """Hand the rows that are not accepted yet to a method, which begins to count its iterations. They are the guess
        again: another method may have left far worse states."""
        state = take_proposal(self.state, self.problem.length, reuse=not self.observers)
        self.before += state.count
        if self.before:
            times = torch.arange(len(self.guess), device=self.guess.device).view(-1, *[1] * state.frontier.ndim)
            rows = ((times >= state.frontier) & state.running).unsqueeze(-1)
            states = torch.cat([state.states[:1], torch.where(rows, self.guess, state.states[1:])])
            state = replace(state, states=states, proposal=None)
        age = None if state.age is None else torch.zeros_like(state.age)
        self.state = replace(state, carry=self.contenders[place].init(state.states[1:]), age=age, count=0)

    def iterate(self, place: int, window: int, most: int | None = None) -> float:
        """Make at most `most` iterations; the seconds that they took."""
        begin, options = self.now(), replace(self.options, window=window)
        self._take(go_on(self.problem, self.contenders[place], self.state, options, self.observers, most))
        return self.now() - begin

    def step_to(self, stop: int) -> float:
        """Evaluate step by step up to a row; the seconds that it took."""
        begin = self.now()
        while not self.over and self.front < stop:
            last = min(stop, self.front + STEPS_PER_CHECK)
            state = replace(self.state, states=self.state.states.clone()) if self.observers else self.state
            self._take(take_steps(self.problem, state, self.front, last), self.observers)
            if self.front < last:  # the loop finds which sequences have a value that is not finite
                state = replace(self.state, carry=None)
                self._take(go_on(self.problem, Jacobi(), state, self.options, self.observers, 1))
        return self.now() - begin

    def take_compiled_steps(self) -> bool:
        """Evaluate all rows by the recurrence's own steps, if it has some that serve."""
        own = own_steps(self.problem.f)
        states = None if own is None else own(self.problem.s0, self.problem.inputs)
        if states is not None:
            self._take(accept_rows(self.problem, self.state, states, 0), self.observers)
            self.step_to(self.problem.length)  # from a value on that is not finite
        return states is not None

    def target(self) -> float:
        """The residual to reach, for states of the size of those that are accepted."""
        rows = self.state.states[: 1 + self.front]
        typical = max(float(rows[:: max(1, len(rows) // 64)].abs().mean()), 1e-3)
        return max(self.options.atol + self.options.rtol * typical, torch.finfo(rows.dtype).eps * typical)

    def _take(self, state: LoopState, observers: Sequence[Observer] = ()) -> None:
        for observer in observers:
            state = observer(self.problem, state) or state
        self.state, self.front = state, front_of(state, self.problem.length)
