"""One method for the first iterations of a row, another afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.mixing import select
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.arguments import check_count, check_transition_method, fix
from lds_iter.methods.base import StatefulTransition, checked_choice


@dataclass(frozen=True)
class Pair:
    """The carries of two methods."""

    first: Any
    second: Any

    @staticmethod
    def of(first: Any, second: Any) -> Pair | None:
        """The carry, or None if neither method has one; the loop may then tile the rows."""
        return None if first is None and second is None else Pair(first, second)


@dataclass(frozen=True)
class Then(StatefulTransition):
    """One method for the first iterations, another afterwards: `Then(Jacobi(), Newton(), 16)`.

    Iterations are counted per row from when this method was given it, so with a sliding window every row has its turn
    with `first`; a window not much longer than `iterations` leaves `second` little to do. On trained networks, whose
    states lie far from any simple guess, a few Jacobi iterations first decide whether Newton converges at all. In a
    window two unlike structures are mixed, as in `Where`.

    Attributes:
        first: the method to begin with.
        second: the method to go on with. It counts its own iterations from there on.
        iterations: how many iterations `first` gets.

    Raises:
        TypeError: when a method does not choose a transition.
        ValueError: when `iterations` is no whole number, 0 or more.
    """

    first: StatefulTransition
    second: StatefulTransition
    iterations: int

    def __post_init__(self) -> None:
        check_transition_method("first", self.first)
        check_transition_method("second", self.second)
        fix(self, iterations=check_count("iterations", self.iterations, least=0))

    @property
    def runs_forward(self) -> bool:
        return self.first.runs_forward and self.second.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return self.second.for_adjoint()

    def init(self, guess: Tensor) -> Pair | None:
        return Pair.of(self.first.init(guess), self.second.init(guess))

    def choose(self, lin: Linearization, carry: Pair | None) -> tuple[AbstractTransition, Pair | None]:
        carries = Pair(None, None) if carry is None else carry
        young = lin.iteration < self.iterations
        later = self._later(lin)
        if isinstance(young, bool):
            if young:
                transition, kept = checked_choice(self.first, lin, carries.first)
                return transition, Pair.of(kept, carries.second)
            transition, kept = checked_choice(self.second, later, carries.second)
            return transition, Pair.of(carries.first, kept)
        of_first, of_second = _for(young, lin), _for(~young, later)
        first = second = None
        kept_first, kept_second = carries.first, carries.second
        if _some(of_first):
            first, kept_first = checked_choice(self.first, of_first, carries.first)
        if _some(of_second) or first is None:
            second, kept_second = checked_choice(self.second, of_second, carries.second)
        carry = Pair.of(kept_first, kept_second)
        if first is None or second is None:
            found = second if first is None else first
            assert found is not None
            return found, carry
        return select(young, first, second, lin.residual), carry

    def _later(self, lin: Linearization) -> Linearization:
        """The linearization for `second`: iterations count from the end of `first`; `entered` marks new sequences."""
        if isinstance(lin.iteration, int):
            entered = lin.active if lin.iteration == self.iterations and self.iterations else lin.entered
            return replace(lin, iteration=max(0, lin.iteration - self.iterations), entered=entered)
        return replace(lin, iteration=(lin.iteration - self.iterations).clamp(min=0))


def _some(lin: Linearization) -> bool:
    """Whether any sequence takes part. On an accelerator the host does not look, and the answer is True."""
    return not _torch.on_host(lin.active) or bool(lin.active.any())


def _for(rows: Tensor, lin: Linearization) -> Linearization:
    """The linearization restricted to sequences that have one of these rows open; the others keep their carry."""
    return replace(lin, active=lin.active & lin.over_time.some((rows & lin.open).squeeze(-1)))
