"""Methods made of methods: each wraps the transition that another one chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_count, check_transition_method
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.scan.transitions import AbstractTransition, clipped, scaled, select


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
        check_transition_method("method", self.method)
        if not 0 <= self.k <= 1:
            raise ValueError(f"`k` must lie in [0, 1], got {self.k}.")

    def for_adjoint(self) -> LDSApproximation:
        return self.method.for_adjoint()

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
        check_transition_method("method", self.method)
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
        check_transition_method("first", self.first)
        check_transition_method("second", self.second)
        check_count("iterations", self.iterations, least=0)

    def for_adjoint(self) -> LDSApproximation:
        return self.second.for_adjoint()

    def transition(self, lin: Linearization) -> AbstractTransition:
        if isinstance(lin.iteration, int):
            return (self.first if lin.iteration < self.iterations else self.second).transition(lin)
        young = lin.iteration < self.iterations
        if _torch.on_host(young) and not bool(young.any()):
            return self.second.transition(lin)
        return select(young, self.first.transition(lin), self.second.transition(lin), lin.residual)


@dataclass(frozen=True)
class Where(TransitionApproximation):
    """One method at some time steps, another at the others: Newton where it pays, a diagonal elsewhere.

    The transitions of both are computed, and mixed in the tightest structure that holds both.

    Attributes:
        choose: from the linearization to a bool, `(n, *batch, 1)`, each row from its own numbers alone.
        one: the method where `choose` is true.
        other: the method elsewhere.
    """

    choose: Callable[[Linearization], Tensor]
    one: TransitionApproximation
    other: TransitionApproximation

    def __post_init__(self) -> None:
        check_transition_method("one", self.one)
        check_transition_method("other", self.other)
        if not callable(self.choose):
            raise TypeError(f"`choose` must be a function from a linearization to a bool per row, got {self.choose!r}.")

    def transition(self, lin: Linearization) -> AbstractTransition:
        chosen = self.choose(lin)
        return select(chosen, self.one.transition(lin), self.other.transition(lin), lin.residual)
