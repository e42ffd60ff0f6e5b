"""`Auto`: placeholder between two rewrites; runs its first candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lds_iter.loop.run import run
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.methods.newton import Newton


@dataclass(frozen=True)
class Auto(AbstractStrategy):
    """Runs Newton's method."""

    def run(
        self, problem: Problem, guess: Tensor, options: LoopOptions, observers: Sequence[Observer] = ()
    ) -> LoopState:
        """Solve."""
        return run(problem, Newton(), guess, options, observers)

    def for_adjoint(self) -> Newton:
        """What solves the recurrence of the gradient."""
        return Newton()
