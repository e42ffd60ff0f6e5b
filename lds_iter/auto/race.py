"""One solve by `Auto`: run the winner of its kind, or race the contenders that were not tried yet."""

from __future__ import annotations

import math
from dataclasses import replace

from lds_iter.auto.attempt import SHORTEST_WINDOW_ROWS, Attempt
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import KERNEL, STEPWISE, Entry, PlanRecord, RacePlan, kind_of
from lds_iter.loop.state import LoopState
from lds_iter.solution import Result, duration

SHORTEST_RACE_ROWS = 120
"""Shorter sequences are evaluated step by step without a race: a few iterations cost as much in overhead alone."""

WARM_UP_STEPS, TIMED_STEPS = 2, 24
"""Sequential steps that begin a race."""

WINNER_EVALUATIONS_RATIO = 1.5
"""A winner is watched after it has taken this many times the evaluations of its last solve."""

DENSE_NUMBERS = 1 << 27
"""Numbers that the matrices of a method that takes all its rows at once may have: 512 MiB in float32."""


class Race:
    """One solve; `entry` is what is known of its kind, before it and after it."""

    def __init__(self, solving: Solving) -> None:
        self.solving, self.length, self.settings = solving, solving.problem.length, solving.settings
        self.base = STEPWISE if solving.kernel is None else KERNEL  # the way without a method
        self.key = kind_of(solving.problem, None if solving.kernel is None else solving.kernel.name)
        self.entry: Entry = self.settings.table.find(self.key)

    def run(self) -> LoopState | None:
        """The solve, from the guess to results; None where the kernel is to answer."""
        solving = self.solving
        if not self._at_once():
            best = None if self.entry.untried(len(self.settings.contenders)) else self.entry.best()
            if best is None:
                self._race()
            elif best[0] != KERNEL:
                self._repeat(*best)
            self.settings.table.put(self.key, self.entry)
        if solving.kernel and (not solving.over or bool((solving.state.result == int(Result.MAX_ITERS)).any())):
            return None
        return replace(solving.state, count=solving.count, decisions=tuple(solving.decisions))

    def _at_once(self) -> bool:
        """Solve without a race, where there is nothing to decide."""
        solving, limit = self.solving, int(self.solving.options.max_iters)
        if solving.kernel is not None:
            return False
        if limit < self.length:
            solving.decide(RacePlan(0), f"`max_iters` = {limit} rules out going step by step")
            solving.enter(RacePlan(0))
            solving.iterate(RacePlan(0))
        elif solving.take_compiled_steps():
            solving.decide(STEPWISE, "the recurrence has compiled steps")
        elif self.length < SHORTEST_RACE_ROWS:
            solving.decide(STEPWISE, f"{self.length} rows are too few for iterations to pay")
            solving.step_to(self.length)
        return solving.over

    def _race(self) -> None:
        """Try contenders, then continue from the rows that they accepted with the fastest plan known."""
        solving, seconds = self.solving, self._time_base()
        plan, record = self.entry.best() or (self.base, PlanRecord(seconds))
        allowed = min(self.settings.budget * seconds, record.seconds)
        for place in self.entry.untried(len(self.settings.contenders)):
            if solving.over:
                return
            self._try(place, record.seconds, allowed)
            if plan.contender >= 0 or solving.lost > allowed:
                break  # where a method is known to work, one attempt a solve
        if not solving.over:
            solving.decide(plan, "nothing that was tried now is faster", record.seconds, seconds)
            rows = solving.rows
            if plan.contender >= 0:
                self._run_winner(plan, record)
            elif plan == STEPWISE:
                whole = solving.step_to(self.length) * self.length / rows
                self.entry = self.entry.noted(STEPWISE, PlanRecord(whole, self.length))

    def _time_base(self) -> float:
        """Seconds of all rows without a method: from the table, or measured on a few steps or on the kernel."""
        solving, known = self.solving, self.entry.records.get(self.base)
        if solving.kernel is not None:
            begin = solving.now()
            solving.kernel.run()
            seconds = solving.now() - begin
            known = PlanRecord(seconds if known is None else min(seconds, known.seconds))
        elif known is None:
            solving.step_to(WARM_UP_STEPS)
            seconds = solving.step_to(WARM_UP_STEPS + TIMED_STEPS)
            known = PlanRecord(seconds / TIMED_STEPS * self.length, sure=False)
        self.entry = self.entry.noted(self.base, known)
        return known.seconds

    def _try(self, place: int, seconds: float, allowed: float) -> None:
        """One attempt against a plan that takes `seconds`; the record of its method is kept."""
        solving, widest = self.solving, self._widest(place)
        attempt = Attempt(solving, place, widest, seconds / self.length, allowed, min(SHORTEST_WINDOW_ROWS, widest))
        solving.decide(attempt.plan, f"it is to be tried; {duration(seconds / self.length)} a row is what to beat")
        solving.enter(attempt.plan)
        plan, record = attempt.run()
        if not solving.over:
            plan, again = RacePlan(place), RacePlan(place) in self.entry.records
            self.entry = self.entry.noted(plan, record._replace(sure=record.sure or again))
        elif bool((solving.state.result == int(Result.SUCCESS)).all()):
            self.entry = self.entry.noted(plan, record)

    def _repeat(self, plan: RacePlan, record: PlanRecord) -> None:
        """Run the winner, as the fixed method would run."""
        solving, begin = self.solving, self.solving.now()
        why = f"the last one took {record.evaluations} evaluations in {duration(record.seconds)}"
        solving.decide(plan, why, record.seconds, self.entry.records[self.base].seconds)
        won = self._run_winner(plan, record) if plan != STEPWISE else solving.step_to(self.length) >= 0
        seconds = solving.now() - begin if won else math.inf
        self.entry = self.entry.repeated(plan, PlanRecord(seconds, solving.count))

    def _run_winner(self, plan: RacePlan, record: PlanRecord) -> bool:
        """Run a method that has solved this kind. When it takes longer than before, watch it, and fall back to the way
        without a method. Returns whether it did everything."""
        solving, seconds = self.solving, self.entry.records[self.base].seconds
        solving.enter(plan)
        solving.iterate(plan, math.ceil(WINNER_EVALUATIONS_RATIO * record.evaluations))
        if not solving.over:
            widest, allowed = plan.window or self.length, solving.lost + self.settings.budget * seconds
            Attempt(solving, plan.contender, widest, seconds / self.length, allowed, widest).run()
        if solving.over or solving.kernel is not None:
            return solving.over
        solving.decide(STEPWISE, f"{self.settings.describe(plan, None)} does not get on as it did")
        solving.step_to(self.length)
        return False

    def _widest(self, place: int) -> int:
        """Rows that a method may take at once."""
        s0, most = self.solving.problem.s0, min(self.solving.options.window, self.length)
        dense = max(SHORTEST_WINDOW_ROWS, DENSE_NUMBERS // (s0.numel() * s0.shape[-1]))
        return most if self.settings.contenders[place].runs_forward else min(most, dense)
