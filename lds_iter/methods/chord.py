"""The chord method: keep a transition for several iterations.

Newton's iteration with a Jacobian that is renewed now and then (Ortega, Rheinboldt 1970, section 7.1): linear in place
of quadratic convergence, but an iteration costs one evaluation of `f` and one scan. Pays where derivatives are dear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_count, check_transition_method
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.scan.transitions import AbstractTransition, leaves, map_leaves


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

    def for_adjoint(self) -> LDSApproximation:
        return self.method.for_adjoint()

    def init(self, guess: Tensor) -> None:
        return None

    def update(self, lin: Linearization, carry: Kept | None) -> tuple[Tensor, Kept]:
        if isinstance(lin.iteration, int) and (carry is None or lin.iteration % self.refresh == 0):
            kept = Kept(lin.rows.start, self.method.transition(lin))
        elif isinstance(lin.iteration, int) and _none_enters(lin):
            assert carry is not None
            kept = carry
        else:
            kept = _renewed(carry, self.method.transition(lin), lin.rows.start, _due(lin, self.refresh))
        return lin.scan(_rows(kept.transition, lin.rows.start - kept.start, lin.residual.shape[0]), lin.residual), kept


def _none_enters(lin: Linearization) -> bool:
    """Whether nobody comes from another method. The host looks where that is free; elsewhere somebody may."""
    return lin.entered is None or (_torch.on_host(lin.entered) and not bool(lin.entered.any()))


def _due(lin: Linearization, refresh: int) -> Tensor:
    """The rows to renew, `(n, *batch, 1)`, or `(1, *batch, 1)` where all have the same age, which is not due."""
    entered = torch.zeros_like(lin.active) if lin.entered is None else lin.entered
    entered = entered[None, ..., None]
    return entered if isinstance(lin.iteration, int) else (lin.iteration % refresh == 0) | entered


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
        mask = due[:shared].reshape(-1, *due.shape[1:-1], *[1] * (leaf.ndim - due.ndim + 1))
        return torch.cat([torch.where(mask, leaf[:shared], old[:shared]), leaf[shared:], old[n:]])

    return Kept(start, map_leaves(renewed, fresh))
