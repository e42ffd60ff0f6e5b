"""An attempt: one contender runs while it pays, in a window that grows and shrinks.

The window begins short, where any iteration is cheap, and the rows solved there are kept. The time of an iteration is
taken to be linear in the number of rows; two windows determine the line. The window grows to all rows when the forecast
beats the fastest plan known, or when a few iterations over all rows fit into the allowance (the seconds that may be
lost). The attempt continues while the forecast is good, and otherwise until half of the allowance is spent. Then the
window shrinks, because a method that fails on all rows may succeed on short stretches. In the shortest window the
attempt ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lds_iter.auto.forecast import AttemptForecast
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import PlanRecord, RacePlan
from lds_iter.solution import duration

SHORTEST_WINDOW_ROWS, WINDOW_GROWTH_RATIO = 64, 8
"""Rows of the first window, and the factor by which a window grows and shrinks."""

UNPROMISED_ITERATIONS = 6
"""A window also grows without a good forecast if this many iterations of the wider one fit into the allowance."""


@dataclass
class Attempt:
    """An attempt of the contender in `place`.

    Attributes:
        widest: rows that it may take at once; `window`: those that it takes now.
        row_seconds: of the fastest way that is known.
        allowed_seconds: that may be lost in this solve without a promise.
        promised: iterations that a window needs, by the windows before; `least`: the smallest residual in them.
        costs: seconds of the last iteration, by rows.
    """

    solving: Solving
    place: int
    widest: int
    row_seconds: float
    allowed_seconds: float
    window: int
    promised: float = math.inf
    least: float = math.inf
    spent: float = 0.0
    evaluations: int = 0
    costs: dict[int, float] = field(default_factory=dict)

    @property
    def plan(self) -> RacePlan:
        """The method in its present window."""
        return RacePlan(self.place, self.window if self.window < self.solving.problem.length else None)

    def run(self) -> tuple[RacePlan, PlanRecord]:
        """Run until the solve ends or the attempt fails. Returns how it ended, and its record for all rows."""
        rows = self.solving.rows
        while self._in_window():
            pass
        if self.solving.over:
            return self.plan, PlanRecord(self.spent * self.solving.problem.length / rows, self.evaluations, sure=False)
        return self.plan, PlanRecord(math.inf, self.evaluations, sure=self.evaluations > 1)

    def _in_window(self) -> bool:
        """Iterate until the window should change, and change it; false when the attempt has ended."""
        solving, allowed = self.solving, self.allowed_seconds
        forecast = AttemptForecast(self.window, solving.front, solving.target(), self.least)
        allowed -= (allowed - solving.lost) / 2 if self.window > SHORTEST_WINDOW_ROWS else 0
        slides, goal = self.window == self.widest, solving.front + self.window
        while True:
            self._iterate(self.window if slides else goal - solving.front)
            if solving.over:
                return False
            forecast.add(solving.largest_residual(), solving.front)
            if wider := self._wider(forecast):
                self.least = min(self.least, *forecast.residuals[1:], math.inf)
                return self._change(*wider)
            left = min(forecast.left(solving.rows), self._promised(forecast) - len(forecast.residuals))
            if solving.lost > allowed and not self._pays(left, self.window):
                return self._shrink()
            if not slides and solving.front >= goal:
                self.widest = self.window  # it gets on, but not so well that more rows at once should be faster
                return True

    def _iterate(self, rows: int) -> None:
        seconds, gained = self.solving.iterate(RacePlan(self.place, rows), 1)
        self.solving.lost += seconds - gained * self.row_seconds
        self.spent, self.evaluations = self.spent + seconds, self.evaluations + 1
        self.costs[self.window] = seconds

    def _shrink(self) -> bool:
        """Continue in a shorter window if there is one; otherwise the attempt has failed."""
        self.solving.restore_guess()
        if self.window <= SHORTEST_WINDOW_ROWS or self.evaluations == 1:
            return False
        why = f"{self.window} rows at once do not get on"
        self.promised, self.widest = math.inf, max(SHORTEST_WINDOW_ROWS, self.window // WINDOW_GROWTH_RATIO)
        return self._change(self.widest, why)

    def _change(self, window: int, why: str) -> bool:
        self.window = window
        self.solving.change_window(self.plan)
        self.solving.decide(self.plan, why)
        return True

    def _pays(self, iterations: float, window: int) -> bool:
        """Whether this many iterations should beat the fastest plan, whose whole time at most may be lost."""
        rest, whole = self.solving.rows * self.row_seconds, self.solving.problem.length * self.row_seconds
        return iterations * self._cost(window) < rest and self.solving.lost < whole

    def _promised(self, forecast: AttemptForecast) -> float:
        """Iterations that a window needs: the forecast of earlier windows until this one has had as many."""
        return self.promised if len(forecast.residuals) < self.promised else math.inf

    def _wider(self, forecast: AttemptForecast) -> tuple[int, str] | None:
        """The wider window to continue in, and the reason."""
        if self.window == self.widest:
            return None
        next_one, measured = min(WINDOW_GROWTH_RATIO * self.window, self.widest), len(self.costs) > 1
        needed = min(forecast.needed(), self._promised(forecast))
        if self._pays(needed, self.widest):
            self.promised, wider = needed, self.widest if measured else next_one
            return wider, f"some {needed:.0f} iterations of {duration(self._cost(wider))} should do"
        room = (self.allowed_seconds - self.solving.lost) / UNPROMISED_ITERATIONS
        for wider in (self.widest, next_one) if measured else (next_one,):
            if (cost := self._cost(wider)) <= room:
                return wider, f"{UNPROMISED_ITERATIONS} iterations of {duration(cost)} may be lost"
        return None

    def _cost(self, window: int) -> float:
        """Seconds of an iteration, from the line through the two widest windows so far; at least their own times."""
        if window in self.costs or len(self.costs) == 1:
            return self.costs.get(window, self.costs[self.window])
        low, high = sorted(self.costs)[-2:]
        return self.costs[high] + max(0.0, self.costs[high] - self.costs[low]) / (high - low) * (window - high)
