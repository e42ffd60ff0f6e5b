"""What takes part in a race: methods, and a kernel from outside in place of step-by-step evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from lds_iter.auto.clock import AbstractClock
from lds_iter.auto.table import KERNEL, STEPS, Plan, Table
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

CONTENDERS = Newton(), QuasiNewton(), Picard(), TrustRegion(Newton())
"""In the order in which they are tried: fewest iterations first, and last the one for the edge of stability."""

STEPWISE = "step by step"


class ExternalKernel(Protocol):
    """A kernel that evaluates the whole sequence by itself, such as cuDNN's for a GRU.

    Attributes:
        name: what decisions call it. Problems beside kernels of different names are of different kinds.
    """

    @property
    def name(self) -> str: ...

    def run(self) -> Any:
        """Evaluate; called to be timed, so the answer may be thrown away."""


@dataclass(frozen=True)
class Settings:
    """Of an `Auto`, as its parts need them.

    Attributes:
        contenders: the methods.
        names: of the methods, as text.
        budget: share of the time of the fastest way that is known, which may be lost in one solve.
        clock: what time is measured with.
        warm_start: whether to begin at the last solution, where that is nearer.
        table: what earlier solves took.
    """

    contenders: tuple[LDSApproximation, ...]
    names: tuple[str, ...]
    budget: float
    clock: AbstractClock
    warm_start: bool
    table: Table

    def describe(self, plan: Plan, kernel: ExternalKernel | None) -> str:
        """A plan in words."""
        if plan in (STEPS, KERNEL):
            return STEPWISE if kernel is None else kernel.name
        name = self.names[plan.contender]
        return name if plan.window is None else f"{name} in windows of {plan.window} rows"
