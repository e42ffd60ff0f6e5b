"""How many iterations an attempt still takes, by those that it has made in its present window.

Two signs count. The largest residual falls: at its rate since the last two iterations it reaches the tolerance in so
many iterations, which is how many every window needs. The frontier moves: at its pace over the later half of the
iterations it reaches the end. Both are extrapolations, so they are made again after every iteration. Without a sign the
forecast is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Forecast:
    """The iterations in one window.

    Attributes:
        window: its rows.
        target: the residual to reach.
        front: rows that were accepted before.
        least: the smallest residual before: one that has exploded may fall without a promise.
        residuals: the largest residual of each iterate.
        fronts: the rows that the slowest sequence had accepted at each.
    """

    window: int
    target: float
    front: int
    least: float = math.inf
    residuals: list[float] = field(default_factory=list)
    fronts: list[int] = field(default_factory=list)

    def add(self, residual: float, front: int) -> None:
        """Note an iterate."""
        self.residuals.append(residual if math.isfinite(residual) else math.inf)
        self.fronts.append(front)

    @property
    def grew(self) -> bool:
        """Whether the residual is larger than at first: it is better to begin anew than to go on from here."""
        return bool(self.residuals) and not self.residuals[-1] <= self.residuals[0]

    def needed(self) -> float:
        """Iterations that a window needs in all."""
        done = len(self.residuals)
        moved = self.fronts[-1] - self.front if done else 0
        return min(done + self._by_residual(), done * self.window / moved if 2 * moved >= self.window else math.inf)

    def left(self, rows: int) -> float:
        """Iterations until so many rows, all that are not accepted yet, will be."""
        by_residual = self._by_residual()
        if rows > self.window:
            by_residual = rows / self.window * self.needed()
        return min(by_residual, self._by_frontier(rows))

    def _by_residual(self) -> float:
        last = self.residuals[-3:]
        if len(last) < 2 or not 0 < last[-1] < min(self.least, *self.residuals[:-1]) < math.inf:
            return math.inf
        rate = math.log(last[0] / last[-1]) / (len(last) - 1)
        return max(1.0, math.log(last[-1] / self.target) / rate)

    def _by_frontier(self, rows: int) -> float:
        last = self.fronts[len(self.fronts) // 2 :]
        gained = last[-1] - last[0] if len(last) > 1 else 0
        if gained <= len(last) - 1:  # one row an iteration is accepted whatever the method does
            return math.inf
        return max(1.0, rows * (len(last) - 1) / gained)
