"""An attempt: one contender runs while it pays.

It begins in a window of 64 rows, where any iteration is cheap, and continues in one of 512 rows: the time of an
iteration is taken to be linear in the number of rows, and two windows determine the line. Then come all rows. The
window grows when the forecast for all rows beats the fastest way known, when a few iterations of the next window fit
into the allowance (the seconds that may be lost), and when it has been solved. Accepted rows are kept. The attempt
fails when the allowance is spent and the forecast is not good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lds_iter.auto.forecast import AttemptForecast
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import PlaceRecord
from lds_iter.solution import duration

FIRST_WINDOWS_ROWS = 64, 512

UNPROMISED_ITERATIONS = 6
"""A window also grows without a good forecast if this many iterations of the wider one fit into the allowance."""


@dataclass
class Attempt:
    """An attempt of the contender in `place`.

    Attributes:
        widest: rows that it may take at once.
        row_seconds: of the fastest way that is known.
        allowed_seconds: that may be lost in this solve without a promise.
        costs: seconds of the last iteration, by rows.
    """

    solving: Solving
    place: int
    widest: int
    row_seconds: float
    allowed_seconds: float
    evaluations: int = 0
    costs: dict[int, float] = field(default_factory=dict)

    def run(self, windows: tuple[int, ...] = FIRST_WINDOWS_ROWS) -> PlaceRecord:
        """Run in these windows, then in the widest, until the solve ends or the attempt fails.

        Returns:
            The record: of a success what all rows take in the last window, not sure because that is extrapolated. A
            failure is sure unless it came with the first iteration of a window, which may have loaded code.
        """
        solving, length, promised, least = self.solving, self.solving.problem.length, math.inf, math.inf
        plan = (*(rows for rows in windows if rows < self.widest), self.widest)
        for window, wider in zip(plan, (*plan[1:], None), strict=True):
            begin, spent, why = solving.front, 0.0, ""
            forecast = AttemptForecast(window, begin, solving.target(), promised, least)
            solving.change_window(window)
            while not why:
                spent += self._iterate(window, window if wider is None else begin + window - solving.front)
                if solving.over:
                    return PlaceRecord(spent * length / (length - begin), self.evaluations, sure=False)
                forecast.add(solving.largest_residual(), solving.front)
                why = "" if wider is None else self._why(forecast, wider)
                late = solving.lost > self.allowed_seconds
                if not why and late and not self._pays(forecast.left(solving.rows), window):
                    solving.restore_guess()
                    return PlaceRecord(math.inf, self.evaluations, sure=len(forecast.residuals) > 1)
                if not why and wider is not None and solving.front >= begin + window:
                    why = f"{window} rows are solved"
            promised, least = forecast.needed(), min(least, *forecast.residuals[1:], math.inf)
            solving.decide(self.place, why, window=wider)
        raise AssertionError("the last window ends with the attempt")

    def _iterate(self, window: int, rows: int) -> float:
        seconds, gained = self.solving.iterate(self.place, rows, 1)
        self.solving.lost += seconds - gained * self.row_seconds
        self.evaluations += 1
        self.costs[window] = seconds
        return seconds

    def _pays(self, iterations: float, window: int) -> bool:
        """Whether this many iterations should beat the fastest way, whose whole time at most may be lost."""
        rest, whole = self.solving.rows * self.row_seconds, self.solving.problem.length * self.row_seconds
        return iterations * self._cost(window) < rest and self.solving.lost < whole

    def _why(self, forecast: AttemptForecast, wider: int) -> str:
        """The reason to continue in a wider window; empty where there is none."""
        needed = forecast.needed()
        if self._pays(needed, self.widest):
            return f"some {needed:.0f} iterations of {duration(self._cost(wider))} should do"
        cost = self._cost(wider)
        fits = UNPROMISED_ITERATIONS * cost <= self.allowed_seconds - self.solving.lost
        return f"{UNPROMISED_ITERATIONS} iterations of {duration(cost)} may be lost" if fits else ""

    def _cost(self, window: int) -> float:
        """Seconds of an iteration, from the line through the two widest windows so far; at least their own times."""
        if window in self.costs or len(self.costs) == 1:
            return self.costs.get(window, next(iter(self.costs.values())))
        low, high = sorted(self.costs)[-2:]
        return self.costs[high] + max(0.0, self.costs[high] - self.costs[low]) / (high - low) * (window - high)
