"""The base classes of methods. A method chooses an LDS approximation; it contains no loop and no state of its own.

- `LDSApproximation` proposes the update itself;
- a `Dampable` one has an update for every damping k, as `TrustRegion` needs;
- a `StatefulTransition` chooses `A_t`, and may remember something;
- a `TransitionApproximation` chooses `A_t` and remembers nothing: what most users write.

Each is a special case of the one before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.arguments import check_is_transition
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.spelling import Composable


class LDSApproximation(Composable, ABC):
    """A method in its most general form: it proposes an update of every state at hand.

    The loop accepts rows, replaces what is not finite, and takes the frontier row from `f` itself, so that any proposal
    ends at the sequential trajectory; a good one gets there in few iterations.
    """

    @property
    def runs_forward(self) -> bool:
        """Whether the method has no carry and the update of a row depends on earlier rows only, so that the loop may
        compute it one stretch of rows after the other."""
        return False

    @abstractmethod
    def init(self, guess: Tensor) -> Any:
        """The carry before the first iteration; None for a method that remembers nothing.

        Args:
            guess: the states that the iteration starts from, `(T, *batch, D)`.
        """

    def for_adjoint(self) -> LDSApproximation:
        """The method for the adjoint recurrence, which is linear: itself, if it helps on linear problems."""
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


class Dampable(LDSApproximation):
    """A method whose update can be held back by a damping k between 0 (not at all) and 1 (a Jacobi iteration)."""

    @abstractmethod
    def damped_updates(self, lin: Linearization, carry: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
        """The updates for all dampings, from one choice of `A`, and the next carry.

        Args:
            lin: `f` along the current guess.
            carry: what the previous iteration returned.

        Returns:
            A function from k, one per sequence, `(*batch)`, or one per row, `(n, *batch)`, to `d`, of the shape of
            `lin.residual`; and the carry.
        """

    @abstractmethod
    def negligible_damping(self, eps: float) -> float:
        """The k below which damping has no effect, when numbers have the relative rounding error `eps`."""


class StatefulTransition(Dampable):
    """A method that is a choice of `A_t`, made with the help of what it remembers: `d_t = A_t d_{t-1} + r_t`, one scan.

    Chords, secant updates and learned or adaptive choices are written so, and nest in every wrapper.
    """

    @abstractmethod
    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        """The matrices `A_t` for the rows at hand, and the next carry.

        Args:
            lin: `f` along the current guess. `lin.keep(new, old)` leaves alone what is known of sequences that wait.
            carry: what the previous iteration returned.

        Returns:
            A transition of n rows, and the carry.
        """

    def for_adjoint(self) -> StatefulTransition:
        return self

    def transition(self, lin: Linearization) -> AbstractTransition:
        """The matrices chosen from a fresh carry."""
        return self.choose(lin, self.init(lin.states))[0]

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        transition, carry = checked_choice(self, lin, carry)
        return lin.scan(transition, lin.residual), carry

    def damped_updates(self, lin: Linearization, carry: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
        transition, carry = checked_choice(self, lin, carry)

        def damped(k: Tensor) -> Tensor:
            keep = (1 - k).unsqueeze(-1).expand(*lin.residual.shape[:-1], 1)
            return lin.scan(transition.scaled(keep), lin.residual)

        return damped, carry

    def negligible_damping(self, eps: float) -> float:
        return eps  # `1 - k` is rounded to 1


class TransitionApproximation(StatefulTransition):
    """A method that is a choice of `A_t` and remembers nothing.

    Such an update runs forward in time, so the loop may evaluate it a stretch of rows at a time.
    """

    @property
    def runs_forward(self) -> bool:
        return True

    @abstractmethod
    def transition(self, lin: Linearization) -> AbstractTransition:
        """The matrices `A_t` for the rows at hand.

        Args:
            lin: `f` along the current guess.
        """

    def init(self, guess: Tensor) -> None:
        return None

    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        return self.transition(lin), carry


def checked_choice(method: StatefulTransition, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
    """The choice of `method`, checked against the rows of `lin`.

    Raises:
        TypeError, ValueError: if the choice is no transition of these rows; the message says what to return instead.
    """
    answer = method.choose(lin, carry)
    if torch.compiler.is_compiling():
        return answer
    name = type(method).__name__
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"`{name}.choose` must return `(transition, carry)`, got {type(answer).__name__}. A method that remembers "
            "nothing is a li.TransitionApproximation and returns the transition alone."
        )
    check_is_transition(answer[0], lin.residual, f"`{name}` must choose")
    return answer
