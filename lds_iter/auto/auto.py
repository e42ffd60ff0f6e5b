"""`Auto`: the strategy that chooses, and what it chooses from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lds_iter.auto.arms import Candidate
from lds_iter.auto.clock import AbstractClock, WallClock
from lds_iter.auto.costs import CostTable
from lds_iter.auto.driver import Driver
from lds_iter.auto.memory import Memory
from lds_iter.loop.state import AbstractStrategy, Problem, Rules, Workspace
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

CANDIDATES = (
    Candidate(Newton(), expected=4, linear=1),
    Candidate(QuasiNewton(), expected=9, linear=8),
    Candidate(Picard(), expected=4),
    Candidate(TrustRegion(Newton()), expected=14, linear=None, rescue=True),
)
"""Counts of `docs/background/counts.md` and `docs/background/trust-region.md`: networks at initialisation for the first
two, small steps of a stochastic differential equation for the third, the edge of stability for the last."""


@dataclass(frozen=True)
class Auto(AbstractStrategy):
    """Choose the method while solving: measure, start with what looks cheapest, watch, switch, or go step by step.

    1. A few sequential steps are timed (their rows are exact), and calls of `f` with one row and with many, from which
       an iteration of each candidate is estimated. A sequence so short that this could not pay (`T * budget` below 12)
       is evaluated step by step at once. What has compiled iterations and small states begins at once.
    2. A probe tells how far `f` carries two states apart: whether it forgets, expands or is linear. The candidate with
       the smallest time to expect, iterations times cost, starts, unless step by step is faster.
    3. After every iteration the time to go is projected, from how fast the residual falls, the frontier moves, and a
       few rows come nearer to the solution. When another candidate or step-by-step evaluation of the remaining rows is
       faster, it takes over. Accepted rows are kept, so nothing of them is computed twice.
    4. Later solves repeat what worked, as the fixed method would run, from the states of the last solve where these are
       nearer than the guess, and try out what might be faster, as far as earlier ones have not spent their budgets.

    **What it can lose.** Call *loss* the time of iterations and looks, less what accepted rows would have taken step by
    step, and S the time of step-by-step evaluation, as measured. Without evidence (a residual that falls, a frontier
    that moves, rows that come nearer, a probe that shows `f` to forget fast or to be linear, an earlier solve of this
    kind that succeeded) the loss stays below `budget * S`, plus at most one iteration of a candidate whose cost was
    estimated too low, or the few compiled ones that a solve may begin with. With evidence that lies it stays below S in
    all. So a solve takes at most `(1 + budget) S` and a constant where nothing promises success, and at most `2 S` and
    that constant ever; the constant is the steps and calls of `f` that are timed.

    Results are as exact as with any method: rows are accepted by the same rule, and the tolerance is the same. Which
    method found them depends on measured times, so two runs may decide differently, and agree to the tolerance.
    `Solution.decisions` tells. Choices are for the whole batch; results, counts and residuals are per sequence.

    Attributes:
        candidates: what to choose from, besides step-by-step evaluation; `CANDIDATES` by default.
        budget: the share of the time of step-by-step evaluation that may be lost without evidence.
        clock: what time is measured with.
        costs: what earlier solves with this object have measured, and how they ended: a solve of a kind that is known
            (the same code of `f`, shape and device) measures nothing again. What earlier solves might have lost and
            did not may be spent by later ones. `CostTable()` forgets all.
        warm_start: whether to keep the states of the last solve of a kind, and to begin the next one there for the
            sequences of which a few rows show that they are nearer to the solution than the guess. While parameters
            change little and inputs do not, as in training on a whole series, that saves a quarter to a half of the
            iterations and more (`python -m bench.auto_guesses`).
        memory: these states, at most 64 MiB of them in float32; neither copied nor pickled.
    """

    candidates: tuple[Candidate, ...] = CANDIDATES
    budget: float = 0.1
    clock: AbstractClock = field(default_factory=WallClock)
    costs: CostTable = field(default_factory=CostTable, compare=False, repr=False)
    warm_start: bool = True
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    def __post_init__(self) -> None:
        some = isinstance(self.candidates, tuple) and bool(self.candidates)
        if not some or not all(isinstance(candidate, Candidate) for candidate in self.candidates):
            raise TypeError(
                f"`candidates` must be a tuple of li.auto.Candidate, with at least one, got {self.candidates!r}. "
                "Type `li.auto.Candidate(li.Picard(), expected=6)`."
            )
        if all(candidate.rescue for candidate in self.candidates):
            raise ValueError("`candidates` needs one to start with: leave `rescue=True` out in at least one.")
        if not 0 < self.budget <= 1:
            raise ValueError(f"`budget` must lie in (0, 1], a share of the time step by step, got {self.budget}.")
        if not isinstance(self.clock, AbstractClock):
            raise TypeError(f"`clock` must be a clock such as li.auto.WallClock(), got {self.clock!r}.")
        if not isinstance(self.costs, CostTable):
            raise TypeError(f"`costs` must be a li.auto.CostTable, got {self.costs!r}.")
        if not isinstance(self.warm_start, bool):
            raise TypeError(f"`warm_start` must be True or False, got {self.warm_start!r}.")
        if not isinstance(self.memory, Memory):
            raise TypeError(f"`memory` must be a li.auto.Memory, got {self.memory!r}.")

    def run(self, problem: Problem, guess: Tensor, rules: Rules) -> Workspace:
        """Solve a problem whose arguments have been checked."""
        return Driver(self, problem, guess, rules).run()
