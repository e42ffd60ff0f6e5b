"""Bounded transitions: no block with a larger infinity norm than a bound.

Published as clip-ELK (Gonzalez, Warrington, Smith, Linderman, "Towards scalable and stable parallelization of nonlinear
RNNs", NeurIPS 2024), which clips the diagonal of a quasi-Newton iteration to [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.mixing import clipped
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.arguments import check_number, check_transition_method, fix
from lds_iter.methods.base import StatefulTransition, checked_choice


@dataclass(frozen=True)
class Clipped(StatefulTransition):
    """Scale down every entry (`Diagonal`), block or matrix to an infinity norm of at most `bound`: *clip-ELK*.

    With `bound = 1` no product of diagonal transitions can grow. A warning from experience: clipping the full Jacobian
    of a non-normal system costs iterations. The norm of a structure without entries of its own takes D products.

    Attributes:
        method: whose transition to clip.
        bound: the largest norm allowed.

    Raises:
        TypeError: when `method` does not choose a transition.
        ValueError: when `bound` is negative.
    """

    method: StatefulTransition
    bound: float = 1.0

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        fix(self, bound=check_number("bound", self.bound, 0, math.inf))

    @property
    def runs_forward(self) -> bool:
        return self.method.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return replace(self, method=self.method.for_adjoint())

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        transition, carry = checked_choice(self.method, lin, carry)
        return clipped(transition, self.bound, lin.residual), carry
