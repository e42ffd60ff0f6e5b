"""Methods made of methods: each wraps the transition that another one chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lds_iter.linearization import Linearization
from lds_iter.methods.base import TransitionApproximation
from lds_iter.transitions import AbstractTransition, clipped, scaled, select


def _check_transition_method(argument: str, method: Any) -> None:
    if not isinstance(method, TransitionApproximation):
        hint = f" Type `{method.__name__}()`." if isinstance(method, type) else ""
        raise TypeError(
            f"`{argument}` must be a method that chooses a transition (a TransitionApproximation such as Newton(), "
            f"QuasiNewton() or Picard()), got {method!r}.{hint}"
        )


@dataclass(frozen=True)
class Damped(TransitionApproximation):
    """`A` becomes `(1 - k) A`: shorter memory, for dynamics at the edge of stability where plain Newton overshoots.

    Attributes:
        method: whose transition to damp.
        k: 0 changes nothing, 1 gives Jacobi.
    """

    method: TransitionApproximation
    k: float

    def __post_init__(self) -> None:
        _check_transition_method("method", self.method)
        if not 0 <= self.k <= 1:
            raise ValueError(f"`k` must lie in [0, 1], got {self.k}.")

    def transition(self, lin: Linearization) -> AbstractTransition:
        return scaled(self.method.transition(lin), 1 - self.k)


@dataclass(frozen=True)
class Clipped(TransitionApproximation):
    """Scale down every entry (`Diagonal`), block or matrix to an infinity norm of at most `bound`.

    With `bound = 1` no product of diagonal transitions can grow. A warning from experience: clipping the full Jacobian
    of a non-normal system costs iterations.

    Attributes:
        method: whose transition to clip.
        bound: the largest norm allowed.
    """

    method: TransitionApproximation
    bound: float = 1.0

    def __post_init__(self) -> None:
        _check_transition_method("method", self.method)
        if not self.bound >= 0:
            raise ValueError(f"`bound` must not be negative, got {self.bound}.")

    def transition(self, lin: Linearization) -> AbstractTransition:
        return clipped(self.method.transition(lin), self.bound)


@dataclass(frozen=True)
class Then(TransitionApproximation):
    """One method for the first iterations, another afterwards: `Then(Jacobi(), Newton(), 16)`.

    Iterations are counted per row from when it entered the window, so with a sliding window every row has its turn with
    `first`; a window not much longer than `iterations` leaves `second` little to do. On trained networks, whose states
    lie far from any simple guess, a few Jacobi sweeps first decide whether Newton converges at all.

    Attributes:
        first: the method to begin with.
        second: the method to go on with.
        iterations: how many iterations `first` gets.
    """

    first: TransitionApproximation
    second: TransitionApproximation
    iterations: int

    def __post_init__(self) -> None:
        _check_transition_method("first", self.first)
        _check_transition_method("second", self.second)
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:
            raise ValueError(f"`iterations` must be a whole number, 0 or more, got {self.iterations!r}.")

    def transition(self, lin: Linearization) -> AbstractTransition:
        if isinstance(lin.age, int):
            return (self.first if lin.age < self.iterations else self.second).transition(lin)
        young = lin.age < self.iterations
        if not torch.any(young):
            return self.second.transition(lin)
        return select(young, self.first.transition(lin), self.second.transition(lin), lin.residual)
