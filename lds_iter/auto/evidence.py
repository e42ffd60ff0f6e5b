"""How many iterations an attempt has still to go, from what its iterations have shown.

Three signs count as evidence. The largest residual falls: at the rate of the last two iterations it will reach the
tolerance. The frontier moves: at the pace of the last few iterations it will reach the end. And a few rows, looked at
where the first two show nothing, have come nearer to the solution on average: at the rate since the guess, and since a
third of the way, they will reach it. All are extrapolations, so they are asked again after every iteration. Before
there is evidence there is hope: the count that the method usually takes, and beyond it twice what was spent already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LEAST_RATE = 0.1
"""Residuals that fall by less than this (natural logarithm, an iteration) are no evidence: they do so by chance."""

PACE = 4
"""Iterations that the pace of the frontier is taken over."""


@dataclass
class Evidence:
    """What an attempt has shown so far.

    Attributes:
        expected: the iterations that the method usually takes.
        length: T.
        target: the residual to reach.
        residuals: the largest one of each iterate.
        fronts: the rows that the slowest sequence had accepted at each.
        looks: digits missing on average in some rows (see `looking.distance`), by iterations; 0 is the guess.
    """

    expected: float
    length: int
    target: float
    residuals: list[float] = field(default_factory=list)
    fronts: list[int] = field(default_factory=list)
    looks: dict[int, float] = field(default_factory=dict)

    def add(self, residual: float, front: int) -> None:
        """Note an iterate."""
        self.residuals.append(residual if math.isfinite(residual) else math.inf)
        self.fronts.append(front)

    @property
    def grew(self) -> bool:
        """Whether the residual is larger than at first: better to begin anew than to go on from here."""
        return bool(self.residuals) and not self.residuals[-1] <= self.residuals[0]

    def shown(self) -> float:
        """Iterations to go by the evidence; infinite without any."""
        return min(self._by_residual(), self._by_front(), self._by_looks())

    def hoped(self) -> float:
        """Iterations to go if all goes as usual."""
        done = len(self.residuals)
        return self.expected - done if done < self.expected else 2.0 * done

    def _by_residual(self) -> float:
        last = self.residuals[-3:]
        if len(last) < 2 or not 0 < last[-1] < last[0] < math.inf:
            return math.inf
        rate = math.log(last[0] / last[-1]) / (len(last) - 1)
        if rate < LEAST_RATE:
            return math.inf
        return max(1.0, math.log(last[-1] / self.target) / rate)

    def _by_front(self) -> float:
        last = self.fronts[-PACE - 1 :]
        gained = last[-1] - last[0] if len(last) > 1 else 0
        if gained <= len(last) - 1:  # one row an iteration comes for free and tells nothing
            return math.inf
        return max(1.0, (self.length - last[-1]) * (len(last) - 1) / gained)

    def _by_looks(self) -> float:
        done = len(self.residuals)
        if done not in self.looks or len(self.looks) < 2:
            return math.inf
        now = self.looks[done]
        since = {min(self.looks), max(then for then in self.looks if then <= done // 3)}
        rate = min((self.looks[then] - now) / (done - then) for then in since)
        return max(1.0, now / rate) if rate > LEAST_RATE else math.inf
