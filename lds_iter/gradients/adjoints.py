"""How gradients reach the parameters of `f`, `s0` and `inputs` from the states of a solution: what every way offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import Composable


class AbstractAdjoint(Composable, ABC):
    """How gradients reach the parameters of `f`, `s0` and `inputs` from the states of a solution."""

    @abstractmethod
    def check_method(self, method: LDSApproximation | AbstractStrategy) -> None:
        """Raise a TypeError for a method whose solve cannot be differentiated this way."""

    @abstractmethod
    def solve(
        self,
        problem: Problem,
        method: LDSApproximation | AbstractStrategy,
        guess: Tensor,
        options: LoopOptions,
        observers: Sequence[Observer],
        *,
        wanted: bool,
    ) -> tuple[LoopState, Tensor]:
        """Run the loop.

        Args:
            problem: still attached to autograd; `guess` too.
            method: of the solve.
            guess: the states to begin with, `(T, *batch, D)`.
            options: how to iterate.
            observers: called after every iteration.
            wanted: whether values of `f` carry a gradient.

        Returns:
            The last state, and its states `(T, *batch, D)` with a gradient.
        """
