"""A forecast of the iterations that an attempt still needs, from those made in its present window.

Two observations are extrapolated. The residual: how soon it reaches the tolerance at the rate of the last two
iterations. The frontier: how soon it reaches the end at its pace over the later half of the iterations. The smaller
number counts, and is computed anew after every iteration. When neither makes progress the forecast is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class AttemptForecast:
    """The iterations in one window of `window` rows, which begins at the row `front`.

    Attributes:
        target: the residual to reach.
        promised: iterations that a window needs, by the one before; it holds until this one has had as many.
        least: the smallest residual in the windows before: one that has exploded falls again.
        residuals, fronts: the largest residual of each iterate, and the rows that were accepted by then.
    """

    window: int
    front: int
    target: float
    promised: float = math.inf
    least: float = math.inf
    residuals: list[float] = field(default_factory=list)
    fronts: list[int] = field(default_factory=list)

    def add(self, residual: float, front: int) -> None:
        """Note an iterate."""
        self.residuals.append(residual if math.isfinite(residual) else math.inf)
        self.fronts.append(front)

    def needed(self) -> float:
        """Iterations that such a window needs in total."""
        done = len(self.residuals)
        if self.fronts[-1] >= self.front + self.window:
            return done
        return min(done + self._by_residual(), self.promised if done < self.promised else math.inf)

    def left(self, rows: int) -> float:
        """Iterations until `rows` more rows, all that remain, are accepted."""
        needed, last = self.needed(), self.fronts[len(self.fronts) // 2 :]
        done, gained = len(last) - 1, last[-1] - last[0]
        # One row an iteration is accepted whatever the method does.
        pace = max(1.0, rows * done / gained) if gained > done else math.inf
        return min(pace, rows / self.window * needed if rows > self.window else needed - len(self.residuals))

    def _by_residual(self) -> float:
        last = self.residuals[-3:]
        if len(last) < 2 or not 0 < last[-1] < min(self.least, last[0], *self.residuals[1:-1]) < math.inf:
            return math.inf
        rate = math.log(last[0] / last[-1]) / (len(last) - 1)
        return max(1.0, math.log(last[-1] / self.target) / rate)
