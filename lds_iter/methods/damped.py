"""Shorter memory: every transition times a number below 1.

Published as scale-ELK (Gonzalez, Warrington, Smith, Linderman, "Towards scalable and stable parallelization of
nonlinear RNNs", NeurIPS 2024), which scales the Jacobians of a Newton or quasi-Newton iteration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.arguments import check_number, check_transition_method, fix
from lds_iter.methods.base import StatefulTransition, checked_choice


@dataclass(frozen=True)
class Damped(StatefulTransition):
    """`A` becomes `(1 - k) A`: *scale-ELK*, for dynamics at the edge of stability where plain Newton overshoots.

    Attributes:
        method: whose transition to damp.
        k: 0 changes nothing, 1 gives Jacobi.

    Raises:
        TypeError: when `method` does not choose a transition.
        ValueError: when `k` lies outside [0, 1].
    """

    method: StatefulTransition
    k: float

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        fix(self, k=check_number("k", self.k, 0, 1))

    @property
    def runs_forward(self) -> bool:
        return self.method.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return self.method.for_adjoint()

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        transition, carry = checked_choice(self.method, lin, carry)
        return transition.scaled(1 - self.k), carry
