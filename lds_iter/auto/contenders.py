"""What takes part in a race: methods, and a kernel from outside in place of step-by-step evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from lds_iter.auto.clock import AbstractClock
from lds_iter.auto.table import Table
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

CONTENDERS = Newton(), QuasiNewton(), Picard(), TrustRegion(Newton())
"""The default contenders in the order of trial: fewest iterations first, the one for unstable recurrences last."""


class ExternalKernel(Protocol):
    """A kernel that evaluates the whole sequence by itself, such as cuDNN's for a GRU."""

    @property
    def name(self) -> str:
        """What decisions call it; problems beside kernels of different names are of different kinds."""
        ...

    def run(self) -> Any:
        """Evaluate the sequence. The call is timed; the caller may discard its result."""


@dataclass(frozen=True)
class RaceSettings:
    """Of an `Auto`, as its parts need them, and the table that they share; `names`: of the contenders, as text."""

    contenders: tuple[LDSApproximation, ...]
    names: tuple[str, ...]
    budget: float
    clock: AbstractClock
    table: Table = field(default_factory=Table)
