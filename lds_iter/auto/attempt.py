"""An attempt: one contender, as long as it pays, in a window that grows and shrinks.

Two iterations in short windows, whose rows are kept, tell what an iteration costs: a line in the number of rows. Then
the window grows as far as a few iterations of that price fit into what may be lost; and to all rows, once the number of
iterations that a window needs promises to beat the fastest way known. The attempt goes on while it promises that, or
else while half of what may be lost is not lost yet. Then the window shrinks, for what fails on all rows may get on in
short stretches. In the shortest window the attempt ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from lds_iter.auto.forecast import Forecast
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import Plan, Record

SHORTEST_WINDOW_ROWS = 64
"""The window of the first iteration; the second one has twice as many rows."""

SHRINK_RATIO = 8
"""What the window shrinks by, where it does not get on."""

UNPROMISED_ITERATIONS = 4
"""Iterations that must fit into what may be lost before a window grows without a forecast."""


@dataclass
class Attempt:
    """An attempt.

    Attributes:
        solving: the solve.
        contender: place of the method.
        widest: rows that it may take at once.
        row_seconds: of the fastest way that is known.
        allowed_seconds: that may be lost in this solve without a forecast.
        window: rows that it takes now.
        spent: seconds so far.
        evaluations: iterations so far.
        least: the smallest residual so far.
        granted: seconds that a window may lose because the one before promised so much.
        costs: seconds of the last iteration by rows.
    """

    solving: Solving
    contender: int
    widest: int
    row_seconds: float
    allowed_seconds: float
    window: int = SHORTEST_WINDOW_ROWS
    spent: float = 0.0
    evaluations: int = 0
    least: float = math.inf
    granted: float = 0.0
    costs: dict[int, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The method in its present window."""
        return Plan(self.contender, self.window if self.window < self.solving.length else None)

    def run(self) -> tuple[Plan, Record]:
        """Until the solve is over or the attempt fails: what it ended as, and its record for all rows."""
        solving, first = self.solving, self.solving.front
        while True:
            forecast = self._in_window()
            if solving.over:
                share = (solving.length - first) / solving.length
                return self.plan, Record(self.spent / share, self.evaluations)
            if forecast is None:
                continue
            if forecast.grew:
                solving.restore_guess()
            if self.window <= SHORTEST_WINDOW_ROWS or self.evaluations <= 2:
                return self.plan, Record(math.inf, self.evaluations, final=self.evaluations > 1)
            self.window = self.widest = max(SHORTEST_WINDOW_ROWS, self.window // SHRINK_RATIO)
            solving.change_window(self.plan)

    def _in_window(self) -> Forecast | None:
        """Iterate until the window grows or slides on, or by a forecast without promise has to shrink."""
        solving, allowed = self.solving, self.allowed_seconds
        forecast = Forecast(self.window, solving.target(), solving.front, self.least)
        if self.window > SHORTEST_WINDOW_ROWS:
            allowed = max(allowed - (allowed - solving.lost) / 2, solving.lost + self.granted)
        fixed, goal = self.window < self.widest, solving.front + self.window
        while True:
            rows = goal - solving.front if fixed else self.window
            seconds, gained = solving.iterate(replace(self.plan, window=rows), 1)
            solving.lost += seconds - gained * self.row_seconds
            self.spent, self.evaluations = self.spent + seconds, self.evaluations + 1
            self.costs[self.window] = seconds
            if solving.over:
                return None
            forecast.add(solving.largest_residual(), solving.front)
            wider = self._wider(forecast, allowed)
            if wider > self.window:
                self.window, self.least = wider, min(self.least, *forecast.residuals)
                solving.change_window(self.plan)
                return None
            if solving.lost > allowed and not self._pays(forecast.left(self._rows()), self.window):
                return forecast
            if fixed and solving.front >= goal:
                self.widest = self.window  # it gets on, but not so well that all rows at once should be faster
                return None

    def _rows(self) -> int:
        return self.solving.length - self.solving.front

    def _pays(self, iterations: float, window: int) -> bool:
        """Whether so many iterations should beat the fastest way, for which at most its whole time may be lost."""
        rest = self._rows() * self.row_seconds
        return iterations * self._cost(window) < rest and self.solving.lost < self.solving.length * self.row_seconds

    def _wider(self, forecast: Forecast, allowed: float) -> int:
        """The window to go on with: as it is, or wider."""
        if len(self.costs) < 2:
            affordable = self.solving.lost + self.costs[self.window] <= allowed
            return min(2 * SHORTEST_WINDOW_ROWS, self.widest) if affordable else self.window
        self.granted = 0.0
        if self.window < self.widest and self._pays(forecast.needed(), self.widest):
            self.granted = forecast.needed() * self._cost(self.widest)
            return self.widest
        wider, room = self.window, (allowed - self.solving.lost) / UNPROMISED_ITERATIONS
        while wider < self.widest and self._cost(min(2 * wider, self.widest)) <= room:
            wider = min(2 * wider, self.widest)
        return wider

    def _cost(self, window: int) -> float:
        """Seconds of an iteration, on the line through the two widest windows so far."""
        if window in self.costs:
            return self.costs[window]
        low, high = sorted(self.costs)[-2:]
        slope = max(0.0, self.costs[high] - self.costs[low]) / (high - low)
        return self.costs[high] + slope * (window - high)
