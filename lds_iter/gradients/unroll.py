"""Backpropagation through the iterations of the solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.loop.run import run
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.methods.base import LDSApproximation


@dataclass(frozen=True)
class Unroll(AbstractAdjoint):
    """Ordinary backpropagation through the iterations of the solve, from its guess.

    The loop runs as usual, with frontier, window and repairs, and autograd records it. The gradient is as exact as the
    iterations carry information: through `k` Jacobi iterations it reaches back `k` steps from rows that are not
    accepted yet, and where Newton squares the error of the states, that of the gradient is about its root. Memory and
    time grow with the iterations. It is differentiable twice, and also reaches the guess and the parameters of the
    method. Where a proposal overflowed and was repaired, the gradient is NaN. Use it as a check on `Implicit`, and to
    study the iteration itself.
    """

    def check_method(self, method: LDSApproximation | AbstractStrategy) -> None:
        if isinstance(method, AbstractStrategy):
            raise TypeError(
                f"`adjoint=li.Unroll()` differentiates the iterations of one method, and {type(method).__name__} has "
                "several. Leave `adjoint` out (the implicit gradient is exact), or type method=li.Newton()."
            )

    def solve(
        self,
        problem: Problem,
        method: LDSApproximation | AbstractStrategy,
        guess: Tensor,
        options: LoopOptions,
        observers: Sequence[Observer],
        *,
        wanted: bool,  # noqa: ARG002
    ) -> tuple[LoopState, Tensor]:
        state = run(problem, method, guess, options, observers)
        return state, state.states[1:]
