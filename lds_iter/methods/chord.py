"""The chord method: keep a transition for several iterations.

Newton's iteration with a Jacobian that is renewed now and then (Ortega, Rheinboldt 1970, section 7.1): linear in place
of quadratic convergence, but an iteration costs one evaluation of `f` and one scan. Pays where derivatives are dear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linearization import Linearization
from lds_iter.methods.arguments import check_count, check_transition_method
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.transitions import AbstractTransition, leaves, map_leaves


@dataclass(frozen=True)
class Kept:
    """The transitions kept for the rows from time `start` on."""

    start: int
    transition: AbstractTransition


@dataclass(frozen=True)
class Chord(LDSApproximation):
    """Renew the transition of a method only every `refresh` iterations of a row.

    Attributes:
        method: whose transition to keep.
        refresh: iterations that share one; 1 changes nothing.
    """

    method: TransitionApproximation
    refresh: int

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        check_count("refresh", self.refresh, least=1)

    def init(self, guess: Tensor) -> None:
        return None

    def update(self, lin: Linearization, carry: Kept | None) -> tuple[Tensor, Kept]:
        if isinstance(lin.age, int):
            old = None if lin.age % self.refresh == 0 else carry
            kept = Kept(lin.start, self.method.transition(lin)) if old is None else old
        else:
            kept = _renewed(carry, self.method.transition(lin), lin.start, lin.age % self.refresh == 0)
        return lin.solve_in_place(_rows(kept.transition, lin.start - kept.start, lin.residual.shape[0])), kept


def _rows(transition: AbstractTransition, first: int, count: int) -> AbstractTransition:
    return map_leaves(lambda leaf: leaf[first : first + count], transition)


def _renewed(kept: Kept | None, fresh: AbstractTransition, start: int, due: Tensor) -> Kept:
    """The rows from `start` on: fresh where a row is due or new, kept otherwise, also those beyond the rows at hand."""
    if kept is None:
        return Kept(start, fresh)
    passed, stored = start - kept.start, iter(leaves(kept.transition))

    def renewed(leaf: Tensor) -> Tensor:
        old, n = next(stored)[passed:], leaf.shape[0]
        shared = min(n, old.shape[0])
        mask = due[:shared].reshape(shared, *due.shape[1:-1], *[1] * (leaf.ndim - due.ndim + 1))
        return torch.cat([torch.where(mask, leaf[:shared], old[:shared]), leaf[shared:], old[n:]])

    return Kept(start, map_leaves(renewed, fresh))
