"""What a method is: the choice of an LDS approximation. It contains no loop and keeps no state of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.scan.transitions import AbstractTransition


class LDSApproximation(ABC):
    """A method in its most general form: it proposes an update of every state at hand.

    The loop accepts rows, replaces what is not finite, and takes the frontier row from `f` itself, so that any proposal
    ends at the sequential trajectory; a good one gets there in few iterations.

    Attributes:
        runs_forward: whether the update of a row depends on earlier rows only, so that the loop may compute it a stretch
            of rows at a time while the carry is None.
    """

    runs_forward: ClassVar[bool] = False

    @abstractmethod
    def init(self, guess: Tensor) -> Any:
        """The carry before the first iteration; None for a method that remembers nothing.

        Args:
            guess: the states that the iteration starts from, `(T, *batch, D)`.
        """

    def for_adjoint(self) -> LDSApproximation:
        """What solves the adjoint recurrence, which is linear: itself, unless it only helps on nonlinear problems."""
        return self

    @abstractmethod
    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        """Propose `d`, to be added to the states, and the next carry.

        Args:
            lin: `f` along the current guess.
            carry: what the previous iteration returned.

        Returns:
            `d`, of the shape of `lin.residual`, and the carry.
        """


class TransitionApproximation(LDSApproximation):
    """A method that is only a choice of `A_t`: the update is `d_t = A_t d_{t-1} + r_t`, one scan.

    Such an update runs forward in time, so the loop may evaluate it a stretch of rows at a time.
    """

    runs_forward: ClassVar[bool] = True

    @abstractmethod
    def transition(self, lin: Linearization) -> AbstractTransition:
        """The matrices `A_t` for the rows at hand."""

    def init(self, guess: Tensor) -> None:
        return None

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        return lin.scan(self.transition(lin), lin.residual), carry
