"""The course of one solve by `Auto`: what there is to decide by, and the account of what was won and lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lds_iter.auto.arms import Arm, Candidate, Outside
from lds_iter.auto.costs import Costs
from lds_iter.auto.steps import lowest
from lds_iter.loop.state import Problem, Rules, Workspace

if TYPE_CHECKING:
    from lds_iter.auto.auto import Auto

CREDIT, DEBT = 4, 64
"""Solves whose unspent budgets a later one may spend at most, and that at most save for what one has overdrawn."""


@dataclass
class Course:
    """What has happened so far.

    Attributes:
        auto: the strategy.
        problem: what is solved.
        rules: the user's.
        outside: a kernel that takes over in place of steps here.
        costs: of problems of this kind.
        state: what the loop works on; None while it is only being decided whether to begin.
        front: rows that the slowest sequence has accepted, as of the last call of `moved`.
        parallel: seconds of iterations.
        swept_rows: rows that were accepted by them.
        tried: what was given up.
        failed: candidates that showed nothing.
        over: whether every sequence has a result.
    """

    auto: Auto
    problem: Problem
    rules: Rules
    outside: Outside | None
    costs: Costs
    state: Workspace | None = None
    front: int = 0
    parallel: float = 0.0
    swept_rows: int = 0
    tried: set[Arm] = field(default_factory=set)
    failed: set[Candidate] = field(default_factory=set)
    over: bool = False

    @property
    def length(self) -> int:
        return self.problem.length

    @property
    def training(self) -> bool:
        """Whether a kernel outside, with its backward pass, is what there is to beat."""
        return self.outside is not None and self.outside.training

    def now(self) -> float:
        """Seconds on the clock."""
        return self.auto.clock.now(self.problem.s0)

    def key(self, arm: Arm) -> str:
        """Of the table: an iteration of a window that slides costs more than one over as many rows in all."""
        return arm.name if arm.window >= self.length else f"{arm.name}, sliding"

    @property
    def step(self) -> float:
        """Seconds of a sequential step; 0 before one was timed."""
        return 0.0 if self.costs.step is None else self.costs.step

    @property
    def lost(self) -> float:
        """Seconds of iterations that their accepted rows do not make up for."""
        return self.parallel - self.swept_rows * self.step

    @property
    def allowance(self) -> float:
        """Seconds that may be lost without evidence."""
        return self.auto.budget * self.length * self.step + self.costs.credit

    def to_go(self) -> int:
        """Rows that the slowest sequence has still to accept."""
        return self.length - self.front

    def may_step(self) -> bool:
        """Whether the rest may be evaluated step by step."""
        if self.outside is not None or self.state is None or self.rules.max_iters >= self.length:
            return True  # every iteration accepts a row at least
        return bool(self.to_go() <= self.rules.max_iters - int(self.state.iterations.max()))

    def moved(self) -> int:
        """Look where the frontier is, after something has moved it; returns how many rows that were."""
        assert self.state is not None
        before, self.front = self.front, lowest(self.state, self.length)
        return self.front - before

    def begin(self) -> None:
        """Count the solve, and take over what is known of a kernel outside."""
        self.costs.solves += 1
        if self.outside is not None:
            self.costs.step = self.outside.step
            self.earn(self.auto.costs.idle)

    def time_outside(self) -> None:
        """Time the kernel outside, where that has not been done."""
        if self.outside is not None and self.outside.timed is not None:
            self.outside = replace(self.outside, step=self.outside.timed(), timed=None)
            self.costs.step = self.outside.step

    def save(self) -> None:
        """What this solve might have lost and did not, later ones may, and the other way round, within bounds."""
        self.earn(1, max(0.0, self.lost))

    def earn(self, solves: int, spent: float = 0.0) -> None:
        """Add the budgets of so many solves to the credit, less what was spent."""
        share = self.auto.budget * self.length * self.step
        self.costs.credit = min(max(-DEBT * share, self.costs.credit + solves * share - spent), CREDIT * share)
