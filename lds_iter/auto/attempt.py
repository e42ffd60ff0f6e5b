"""An attempt: one contender runs while it pays.

It begins in a window of 64 rows, where any iteration is cheap, and continues in one of 512 rows: the time of an
iteration is taken to be linear in the number of rows, and two windows determine the line. Then come all rows. The
window grows when the forecast for all rows beats the fastest way known. Accepted rows are kept. The attempt fails when
the forecast is not good although the window is solved, or the allowance (the seconds that may be lost) is spent.

The forecast is of the iterations that are still needed. Two observations in the present window are extrapolated: how
soon the residual reaches the tolerance at the rate of the last two iterations, and how soon the frontier reaches the
end at its pace over the later half. The smaller number counts; it is infinite without progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from lds_iter.auto.solving import Solving
from lds_iter.auto.table import PlaceRecord
from lds_iter.solution import duration

FIRST_WINDOWS_ROWS = 64, 512


@dataclass
class Attempt:
    """An attempt of the contender in `place`.

    Attributes:
        windows: rows that it takes at once; `window`: those that it takes now, from the row `begin` on.
        row_seconds: of the fastest way that is known.
        allowed_seconds: that may be lost in this solve without a promise.
        fewest_evaluations: made in any case. A forecast needs two; a first attempt makes do with one.
        promised: iterations that a window needs, by the one before; it holds until this one has had as many.
        residuals, fronts: of each iterate in this window the largest residual, and the rows that were accepted by then.
        costs: seconds of the last iteration, by rows of the window.
    """

    solving: Solving
    place: int
    windows: list[int]
    row_seconds: float
    allowed_seconds: float
    fewest_evaluations: int
    window: int = 0
    begin: int = 0
    promised: float = math.inf
    residuals: list[float] = field(default_factory=list)
    fronts: list[int] = field(default_factory=list)
    costs: dict[int, float] = field(default_factory=dict)

    def run(self) -> PlaceRecord:
        """Run in each window in turn, until the solve ends or the attempt fails.

        Returns:
            The record: of a success what all rows take in the last window, not sure because that is extrapolated. A
            failure is sure unless it came with the first iteration of a window, which may have loaded code.
        """
        solving, length = self.solving, self.solving.problem.length
        solving.enter(self.place)
        for window, wider in pairwise([*self.windows, 0]):
            self.window, self.begin, self.residuals, self.fronts, begun = window, solving.front, [], [], solving.now()
            why = self._in_window(wider)
            if solving.over:
                seconds = (solving.now() - begun) * length / (length - self.begin)
                return PlaceRecord(seconds, solving.state.count, sure=False)
            if not why:
                break
            solving.decide(self.place, why, wider)
            self.promised = self._needed()
        return PlaceRecord(math.inf, solving.state.count, sure=len(self.residuals) > 1)

    def _in_window(self, wider: int) -> str:
        """Iterate until the solve ends, the attempt fails, or the window should grow; why it should."""
        solving, goal = self.solving, self.begin + self.window
        while True:
            front, count = solving.front, solving.state.count
            rows, most = (goal - front, 1) if wider else (self.window, max(1, self.fewest_evaluations - count))
            seconds = solving.iterate(self.place, rows, most)
            solving.lost += seconds - (solving.front - front) * self.row_seconds
            self.costs[self.window] = seconds / (solving.state.count - count)
            if solving.over:
                return ""
            residual = solving.state.residual.masked_fill(~solving.state.running, 0).nan_to_num(math.inf)
            self.residuals.append(float(residual.max()))
            self.fronts.append(solving.front)
            if wider and self._pays(self.windows[-1]):
                return f"some {self._needed():.0f} iterations of {duration(self._cost(wider))} should do"
            late = solving.lost > self.allowed_seconds and solving.state.count >= self.fewest_evaluations
            if (wider and solving.front >= goal) or (late and not self._pays(self.window)):
                return ""

    def _pays(self, window: int) -> bool:
        """Whether iterations in such a window should beat the fastest way, whose whole time at most may be lost."""
        whole, lost = self.solving.problem.length * self.row_seconds, self.solving.lost
        return self._left(window) * self._cost(window) < whole - self.solving.front * self.row_seconds and lost < whole

    def _cost(self, window: int) -> float:
        """Seconds of an iteration, of a wider window from the line through the two so far, if it rises."""
        low, high = min(self.costs), max(self.costs)
        slope = max(0.0, self.costs[high] - self.costs[low]) / max(1, high - low)
        return self.costs.get(window, self.costs[high] + slope * (window - high))

    def _needed(self) -> float:
        """Iterations that a window like this one needs in total."""
        done, last = len(self.residuals), self.residuals[-3:]
        if self.fronts[-1] >= self.begin + self.window:
            return done
        promised = self.promised if done < self.promised else math.inf
        if done < 2 or not 0 < last[-1] < min([last[0], *self.residuals[1:-1]]) < math.inf:
            return promised
        rate = math.log(last[0] / last[-1]) / (len(last) - 1)
        return min(promised, done + max(1.0, math.log(last[-1] / self.solving.target()) / rate))

    def _left(self, window: int) -> float:
        """Iterations in such a window until all rows that remain are accepted; one row in each comes by itself."""
        rows, last = self.solving.problem.length - self.solving.front, self.fronts[len(self.fronts) // 2 :]
        if window > self.window or rows > window:  # the window begins anew
            needed = self._needed() * max(1.0, rows / window)
        else:
            needed = self._needed() - len(self.residuals)
        done, gained = len(last) - 1, last[-1] - last[0]
        pace = rows * done / gained if window == self.window and gained > done else math.inf
        return min(needed, max(1.0, pace))
