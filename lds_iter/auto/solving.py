"""One solve under way: the state of the loop, the clock, what was lost, and the decisions so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lds_iter.auto.contenders import ExternalKernel, Settings
from lds_iter.auto.steps import compiled_steps, front_of, take_steps
from lds_iter.auto.table import Entry, Plan
from lds_iter.loop.run import go_on
from lds_iter.loop.state import LoopOptions, LoopState, Observer, Problem, start, take_proposal
from lds_iter.methods.jacobi import Jacobi
from lds_iter.solution import Decision

STEPS_PER_CHECK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of observers."""


class Solving:
    """What an attempt, and all that surrounds it, works on.

    Attributes:
        state: of the loop; None before something has begun.
        front: rows that the slowest sequence has accepted.
        lost: seconds of iterations, less those that their accepted rows would have taken by the fastest known way.
        evaluations: of the loop, before the method that runs now began to count its own.
    """

    def __init__(
        self,
        settings: Settings,
        problem: Problem,
        guess: Tensor,
        options: LoopOptions,
        observers: Sequence[Observer],
        kernel: ExternalKernel | None,
    ) -> None:
        self.settings, self.problem, self.guess, self.options = settings, problem, guess, options
        self.observers, self.kernel, self.length = observers, kernel, problem.length
        self.state: LoopState | None = None
        self.front, self.lost, self.evaluations = 0, 0.0, 0
        self.decisions: list[Decision] = []

    @property
    def over(self) -> bool:
        """Whether every sequence has a result."""
        return self.state is not None and not bool(self.state.running.any())

    def now(self) -> float:
        """Seconds on the clock."""
        return self.settings.clock.now(self.problem.s0)

    def decide(self, plan: Plan, why: str, entry: Entry, seconds: float | None = None) -> None:
        """Note a decision, with the seconds that the rest should take so and step by step."""
        steps = entry.sequential(self.kernel is not None)
        rest = None if steps is None or seconds is None else steps * (1 - self.front / self.length)
        choice = self.settings.describe(plan, self.kernel)
        self.decisions.append(Decision(self.count, self.front, choice, why, None if rest is None else seconds, rest))

    @property
    def count(self) -> int:
        """Evaluations of the loop so far."""
        return self.evaluations + (0 if self.state is None else self.state.count)

    def enter(self, plan: Plan) -> None:
        """Hand the rows that are not accepted yet to a method, which begins to count its iterations."""
        method, options = self.settings.contenders[plan.contender], self.options_of(plan)
        if self.state is None:
            self.state = start(self.problem, method, self.guess, options)
            return
        self.change_window(plan)
        self.evaluations += self.state.count
        self.state = replace(self.state, carry=method.init(self.state.states[1:]), count=0)

    def change_window(self, plan: Plan) -> None:
        """Take the pending update, and count the iterations of each row where the window of a plan slides."""
        assert self.state is not None
        state, age = take_proposal(self.state, self.length, reuse=not self.observers), None
        if self.options_of(plan).window < self.length:
            age = state.frontier.new_zeros((self.length, *state.frontier.shape), dtype=torch.int32)
            age = age if state.age is None else state.age
        self.state = replace(state, age=age)
        self.front = front_of(self.state, self.length)

    def options_of(self, plan: Plan) -> LoopOptions:
        """The options of the loop for a plan."""
        window = self.options.window if plan.window is None else min(plan.window, self.options.window)
        return replace(self.options, window=window)

    def iterate(self, plan: Plan, most: int | None = None) -> tuple[float, int]:
        """Up to so many iterations; the seconds that they took, and how many rows they accepted."""
        assert self.state is not None
        method, begin, front = self.settings.contenders[plan.contender], self.now(), self.front
        self.state = go_on(self.problem, method, self.state, self.options_of(plan), self.observers, most)
        self.front = front_of(self.state, self.length)
        return self.now() - begin, self.front - front

    def restore_guess(self) -> None:
        """Put the guess into the rows that are not accepted: an attempt has left something worse there."""
        assert self.state is not None
        times = torch.arange(self.length, device=self.guess.device).view(-1, *[1] * self.state.frontier.ndim)
        rows = ((times >= self.state.frontier) & self.state.running).unsqueeze(-1)
        states = torch.cat([self.state.states[:1], torch.where(rows, self.guess, self.state.states[1:])])
        self.state = replace(self.state, states=states, proposal=None)

    def step_to(self, stop: int) -> None:
        """Evaluate step by step up to a row."""
        if self.state is None:
            self.state = start(self.problem, Jacobi(), self.guess, self.options)
        while not self.over and (first := front_of(self.state, self.length)) < stop:
            last = min(stop, first + STEPS_PER_CHECK)
            state = replace(self.state, states=self.state.states.clone()) if self.observers else self.state
            self.state = take_steps(self.problem, state, first, last)
            self.show()
            if front_of(self.state, self.length) < last and not self.over:  # the loop finds what is not finite
                state = replace(self.state, carry=None, age=None)
                self.state = go_on(self.problem, Jacobi(), state, self.options, self.observers, 1)
        self.front = front_of(self.state, self.length)

    def take_compiled_steps(self) -> bool:
        """Evaluate all rows by the recurrence's own steps, if these serve."""
        if self.state is None:
            self.state = start(self.problem, Jacobi(), self.guess, self.options)
        found = compiled_steps(self.problem, self.state)
        if found is None:
            return False
        self.state = found
        self.show()
        self.step_to(self.length)  # from a value on that is not finite
        return True

    def show(self) -> None:
        """Call the observers, as after an iteration."""
        assert self.state is not None
        for observer in self.observers:
            self.state = observer(self.problem, self.state) or self.state

    def target(self) -> float:
        """The residual to reach, for states of the size of those that are accepted."""
        assert self.state is not None
        rows = self.state.states[: 1 + self.front]
        typical = max(float(rows[:: max(1, len(rows) // 64)].abs().mean()), 1e-3)
        return max(self.options.atol + self.options.rtol * typical, torch.finfo(rows.dtype).eps * typical)

    def largest_residual(self) -> float:
        """Of the rows that were evaluated last, over all sequences that run."""
        assert self.state is not None
        return float(self.state.residual.masked_fill(~self.state.running, 0).nan_to_num(torch.inf).max())
