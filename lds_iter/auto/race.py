"""One solve by `Auto`: run the winner of its kind, or race the contenders that were not tried yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lds_iter.auto.attempt import SHORTEST_WINDOW_ROWS, Attempt
from lds_iter.auto.contenders import ExternalKernel, Settings
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import KERNEL, STEPS, Entry, Plan, Record, kind
from lds_iter.auto.warm_start import begin_nearer, remember
from lds_iter.loop.state import LoopOptions, LoopState, Observer, Problem
from lds_iter.recurrence import is_linear, own_steps
from lds_iter.solution import Result, duration

SHORTEST_RACE_ROWS = 120
"""Fewer rows are evaluated step by step at once: a few iterations cost as much in overhead alone."""

WARM_UP_STEPS, TIMED_STEPS = 2, 4
"""Sequential steps that begin a race."""

WINNER_EVALUATIONS_RATIO = 1.5
"""A winner that needs more evaluations than so many times its last ones is watched from there on."""

DENSE_NUMBERS = 1 << 27
"""Numbers that the matrices of a method that takes all its rows at once may have: 512 MiB in float32."""


class Race:
    """One solve; `entry` is what is known of its kind, before it and after it."""

    def __init__(
        self,
        settings: Settings,
        problem: Problem,
        guess: Tensor,
        options: LoopOptions,
        observers: Sequence[Observer],
        kernel: ExternalKernel | None,
    ) -> None:
        self.settings, self.kernel, self.length = settings, kernel, problem.length
        self.solving = Solving(settings, problem, guess, options, observers, kernel)
        self.key = kind(problem, None if kernel is None else kernel.name)
        self.entry: Entry = settings.table.find(self.key)

    def run(self) -> LoopState | None:
        """The solve, from the guess to results; None where the kernel is to answer."""
        solving, best = self.solving, None
        if not self._at_once():
            if not self.entry.untried(len(self.settings.contenders)):
                best = self.entry.best()
            if best is None:
                self._race()
            elif best[0] != KERNEL:
                self._repeat(*best)
            self.settings.table.put(self.key, self.entry)
        state = solving.state
        if state is None or not solving.over or (self.kernel is not None and _exhausted(state)):
            return None
        return replace(state, count=solving.count, decisions=tuple(solving.decisions))

    def _at_once(self) -> bool:
        """Solve without a race, where there is nothing to decide."""
        solving, options = self.solving, self.solving.options
        if self.kernel is not None:
            return False
        if options.max_iters < self.length:
            why = f"`max_iters` = {int(options.max_iters)} rules out going step by step"
            solving.decide(Plan(0), why, self.entry)
            solving.enter(Plan(0))
            solving.iterate(Plan(0))
        elif own_steps(solving.problem.f) is not None and solving.take_compiled_steps():
            solving.decide(STEPS, "the recurrence has compiled steps", self.entry)
        elif self.length < SHORTEST_RACE_ROWS:
            solving.decide(STEPS, f"{self.length} rows are too few for iterations to pay", self.entry)
            solving.step_to(self.length)
        else:
            return False
        return True

    def _race(self) -> None:
        """Try contenders, and go on from where they have come to in the fastest way that is known."""
        solving, seconds = self.solving, self._time_sequential()
        fastest = self.entry.best()
        assert fastest is not None
        limits = fastest[1].seconds / self.length, min(self.settings.budget * seconds, fastest[1].seconds)
        for contender in self.entry.untried(len(self.settings.contenders)):
            if solving.over:
                return
            widest = self._widest(contender)
            attempt = Attempt(solving, contender, widest, *limits, window=min(SHORTEST_WINDOW_ROWS, widest))
            self._try(attempt)
            if fastest[0].contender >= 0 or solving.lost > limits[1]:
                break  # where a method is known to work, one attempt a solve
        self._fall_back(*fastest)

    def _time_sequential(self) -> float:
        """Seconds of all rows in the way without a method: known, or by a few steps, or by the kernel."""
        solving, known = self.solving, self.entry.sequential(self.kernel is not None)
        if self.kernel is not None:
            begin = solving.now()
            self.kernel.run()
            known = min(solving.now() - begin, math.inf if known is None else known)
            self.entry = self.entry.noted(KERNEL, Record(known))
        elif known is None:
            solving.step_to(WARM_UP_STEPS)
            begin = solving.now()
            solving.step_to(WARM_UP_STEPS + TIMED_STEPS)
            known = (solving.now() - begin) / TIMED_STEPS * self.length
            self.entry = self.entry.noted(STEPS, Record(known))
        return known

    def _try(self, attempt: Attempt) -> None:
        """One attempt, and what it tells of its method."""
        solving = self.solving
        first = self.entry.records.get(Plan(attempt.contender))
        solving.decide(attempt.plan, f"{self.settings.names[attempt.contender]} was not tried yet", self.entry)
        solving.enter(attempt.plan)
        plan, record = attempt.run()
        if solving.state is not None and record.seconds < math.inf:
            solved = bool((solving.state.result == int(Result.SUCCESS)).all())
            self.entry = self.entry.noted(plan, record) if solved else self.entry
        else:
            self.entry = self.entry.noted(Plan(attempt.contender), replace(record, final=record.final or bool(first)))

    def _fall_back(self, plan: Plan, record: Record) -> None:
        """The rest in the fastest way that is known."""
        solving = self.solving
        if solving.over:
            return
        rest = record.seconds * (1 - solving.front / self.length)
        why = f"nothing that was tried is faster than {duration(record.seconds / self.length)} a row"
        solving.decide(plan, why, self.entry, rest)
        if plan.contender >= 0:
            self._run_winner(plan, record)
        elif plan == STEPS:
            begin, first = solving.now(), solving.front
            solving.step_to(self.length)
            seconds = (solving.now() - begin) / (self.length - first) * self.length
            self.entry = self.entry.noted(STEPS, Record(seconds, self.length))

    def _repeat(self, plan: Plan, record: Record) -> None:
        """Run the winner, as the fixed method would run."""
        solving, settings = self.solving, self.settings
        why = f"the last one took {record.evaluations} evaluations in {duration(record.seconds)}"
        nearer = None
        if settings.warm_start and plan != STEPS:
            nearer, self.entry = begin_nearer(solving.problem, solving.options, self.entry, solving.guess)
        if nearer is not None:
            solving.guess, why = nearer, f"{why}; it begins at the states of the last solve, which are nearer"
        solving.decide(plan, why, self.entry, record.seconds)
        begin, won = solving.now(), True
        if plan == STEPS:
            solving.step_to(self.length)
        else:
            won = self._run_winner(plan, record)
        if nearer is None:
            seconds = solving.now() - begin if won else math.inf
            self.entry = self.entry.repeated(plan, Record(seconds, solving.count))
        if settings.warm_start and won and plan != STEPS and not is_linear(solving.problem.f):
            assert solving.state is not None
            self.entry = remember(self.entry, solving.state)

    def _run_winner(self, plan: Plan, record: Record) -> bool:
        """Run a method that has solved this kind; where it does not get on as it did, watch it, and fall back to the
        way without a method. Returns whether it did everything."""
        solving, seconds = self.solving, self.entry.sequential(self.kernel is not None)
        solving.enter(plan)
        solving.iterate(plan, math.ceil(WINNER_EVALUATIONS_RATIO * record.evaluations))
        if solving.over or seconds is None:
            return solving.over
        widest, allowed = plan.window or self.length, solving.lost + self.settings.budget * seconds
        Attempt(solving, plan.contender, widest, seconds / self.length, allowed, window=widest).run()
        if solving.over:
            return True
        if self.kernel is None:
            solving.decide(STEPS, f"{self.settings.describe(plan, None)} does not get on as it did", self.entry)
            solving.step_to(self.length)
        return False

    def _widest(self, contender: int) -> int:
        """Rows that a method may take at once."""
        s0, most = self.solving.problem.s0, min(self.solving.options.window, self.length)
        if self.settings.contenders[contender].runs_forward:
            return most
        return min(most, max(SHORTEST_WINDOW_ROWS, DENSE_NUMBERS // (s0.numel() * s0.shape[-1])))


def _exhausted(state: LoopState) -> bool:
    return bool((state.result == int(Result.MAX_ITERS)).any())
