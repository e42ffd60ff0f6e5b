"""One solve by `Auto`: run the winner of its kind, or race the contenders that are still to be tried."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lds_iter.auto.attempt import FIRST_WINDOWS_ROWS, Attempt
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import BASE, Entry, PlaceRecord, Table, kind_of
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

    def __init__(self, solving: Solving, budget: float, table: Table) -> None:
        self.solving, self.length, self.budget, self.table = solving, solving.problem.length, budget, table
        self.key = kind_of(solving.problem, solving.base)
        self.entry = table.get(self.key, Entry())

    def run(self) -> LoopState:
        """The solve, from the guess to results; they are `STOPPED` where the kernel is to answer."""
        solving = self.solving
        if not self._at_once():
            untried, (place, record) = self.entry.untried(len(solving.contenders)), self.entry.best()
            if untried and (place == BASE or record.sure):  # an extrapolated record is no measure for others
                self._try_all(untried)
            if not solving.over:
                self._run_best()
            self.table.put(self.key, self.entry)
        state = solving.state
        if solving.kernel and (not solving.over or bool((state.result == int(Result.MAX_ITERS)).any())):
            state = replace(state, result=torch.full_like(state.result, int(Result.STOPPED)))
        return replace(state, count=solving.before + state.count, decisions=tuple(solving.decisions))

    def _at_once(self) -> bool:
        """Solve without a race, where there is nothing to decide."""
        solving, limit = self.solving, int(self.solving.options.max_iters)
        if solving.kernel is not None:
            return False
        if limit < self.length:
            solving.decide(0, f"`max_iters` = {limit} rules out going step by step")
            solving.enter(0)
            solving.iterate(0, solving.options.window)
        elif solving.take_compiled_steps():
            solving.decide(BASE, "the recurrence has compiled steps")
        elif self.length < SHORTEST_RACE_ROWS:
            solving.decide(BASE, f"{self.length} rows are too few for iterations to pay")
            solving.step_to(self.length)
        return solving.over

    def _try_all(self, untried: list[int]) -> None:
        """Try contenders against the fastest way known; where that is a method, one in a solve."""
        solving, seconds = self.solving, self._time_base()
        best, record = self.entry.best()
        allowed = min(self.budget * seconds, record.seconds)
        for place in untried:
            if solving.over:  # also by a rule of the user's, at the steps that were timed
                return
            windows, row = self._windows(place), record.seconds / self.length
            solving.decide(place, f"it is to be tried; {duration(row)} a row is what to beat", windows[0])
            tried = Attempt(solving, place, windows, row, allowed, 2 if place in self.entry.records else 1).run()
            if not solving.over or bool((solving.state.result == int(Result.SUCCESS)).all()):
                self.entry = self.entry.noted(place, tried)
            if best != BASE or solving.lost > allowed:
                return

    def _time_base(self) -> float:
        """Seconds of all rows without a method. A few steps or the kernel are timed in every race until steps have
        computed all rows: a first time may be that of loading code, and the smallest counts."""
        solving, kernel, known = self.solving, self.solving.kernel, self.entry.records.get(BASE)
        if known is None or not known.sure:
            if kernel is None:
                solving.step_to(WARM_UP_STEPS)
                seconds = solving.step_to(WARM_UP_STEPS + TIMED_STEPS) / TIMED_STEPS * self.length
            else:
                begin = solving.now()
                with torch.no_grad():
                    kernel()
                seconds = solving.now() - begin
            self.entry = self.entry.noted(BASE, PlaceRecord(seconds, sure=False))
        return self.entry.records[BASE].seconds

    def _run_best(self) -> None:
        """Run the fastest way known, a method as by itself. When that takes longer than before, watch it, and fall back
        to the way without a method. What computes all rows has a new record."""
        solving, rows, kernel = self.solving, self.length - self.solving.front, self.solving.kernel
        base, (place, record) = self.entry.records[BASE].seconds, self.entry.best()
        last = f"the last one took {record.evaluations} evaluations in {duration(record.seconds)}"
        why = "nothing that was tried now is faster" if solving.decisions else last
        solving.decide(place, why, None, (record.seconds, base))
        if place != BASE:
            allowed = solving.lost + WINNER_EVALUATIONS_RATIO * record.seconds + self.budget * base
            watched = math.ceil(WINNER_EVALUATIONS_RATIO * record.evaluations)
            record = Attempt(solving, place, self._windows(place)[-1:], base / self.length, allowed, watched).run()
            if rows == self.length:
                self.entry = self.entry.noted(place, record._replace(sure=True))
            if not solving.over:
                solving.decide(BASE, f"{solving.contenders[place]} does not get on as it did")
        if kernel is None and not solving.over:
            seconds = solving.step_to(self.length) * self.length / rows
            if place == BASE:
                self.entry = self.entry.noted(BASE, PlaceRecord(seconds, self.length))

    def _windows(self, place: int) -> list[int]:
        """The windows of an attempt; the last one is of all rows that a method may take at once."""
        s0, most = self.solving.problem.s0, min(self.solving.options.window, self.length)
        if not self.solving.contenders[place].runs_forward:
            most = min(most, max(FIRST_WINDOWS_ROWS[0], DENSE_NUMBERS // (s0.numel() * s0.shape[-1])))
        return [*(rows for rows in FIRST_WINDOWS_ROWS if rows < most), most]
