"""One method at some time steps, another at the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.mixing import select
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.arguments import check_transition_method
from lds_iter.methods.base import StatefulTransition, checked_choice
from lds_iter.methods.then import Pair


@dataclass(frozen=True)
class Where(StatefulTransition):
    """One method at some time steps, another at the others: Newton where it pays, a diagonal elsewhere.

    The transitions of both are computed, and mixed in the tightest structure that holds both: two unlike structures of
    which one is no diagonal become `Dense`, T D^2 numbers.

    Attributes:
        choose_rows: from the linearization to a bool, `(n, *batch, 1)`, each row from its own numbers alone.
        one: the method where it is true.
        other: the method elsewhere.

    Raises:
        TypeError: when a method does not choose a transition, or `choose_rows` is no function.
    """

    choose_rows: Callable[[Linearization], Tensor]
    one: StatefulTransition
    other: StatefulTransition

    def __post_init__(self) -> None:
        check_transition_method("one", self.one)
        check_transition_method("other", self.other)
        if not callable(self.choose_rows):
            raise TypeError(
                f"`choose_rows` must be a function from a linearization to a bool per row, got {self.choose_rows!r}."
            )

    @property
    def runs_forward(self) -> bool:
        return self.one.runs_forward and self.other.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return replace(self, one=self.one.for_adjoint(), other=self.other.for_adjoint())

    def init(self, guess: Tensor) -> Pair | None:
        return Pair.of(self.one.init(guess), self.other.init(guess))

    def choose(self, lin: Linearization, carry: Pair | None) -> tuple[AbstractTransition, Pair | None]:
        carries = Pair(None, None) if carry is None else carry
        chosen = _checked(self.choose_rows(lin), lin)
        one, first = checked_choice(self.one, lin, carries.first)
        other, second = checked_choice(self.other, lin, carries.second)
        return select(chosen, one, other, lin.residual), Pair.of(first, second)


def _checked(chosen: Any, lin: Linearization) -> Tensor:
    """Check that `choose_rows` returned a bool for each row."""
    expected = (*lin.residual.shape[:-1], 1)
    fits = isinstance(chosen, Tensor) and chosen.dtype == torch.bool and chosen.ndim == len(expected)
    if fits and chosen.shape[-1] == 1 and chosen.shape[0] in (1, expected[0]):
        return chosen.expand(expected)
    got = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else repr(chosen)
    raise TypeError(
        f"`choose_rows` of Where must return a bool for each row, torch.bool {expected}, got {got}. Keep the last "
        "dimension: `lambda lin: lin.residual.abs().amax(-1, keepdim=True) > 0.1`."
    )
