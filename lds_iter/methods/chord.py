"""The parallel chord method: keep a transition for several iterations.

Newton's iteration with a Jacobian that is renewed every few iterations (Ortega, Rheinboldt 1970, section 7.1).
Convergence is linear instead of quadratic, but an iteration in between costs one evaluation of `f` and one scan. This
pays where derivatives are expensive.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.mixing import in_one_structure
from lds_iter.linear.transitions import AbstractTransition, Diagonal, leaves, map_leaves, take
from lds_iter.methods.arguments import check_count, check_transition_method, fix
from lds_iter.methods.base import StatefulTransition, checked_choice


@dataclass(frozen=True)
class Kept:
    """The transitions kept for the rows from time `start` on, and the carry of the inner method."""

    start: int
    transition: AbstractTransition | None
    inner: Any


@dataclass(frozen=True)
class Chord(StatefulTransition):
    """Renew the transition of a method only every `refresh` iterations of a row: the *parallel chord* method.

    Attributes:
        method: whose transition to keep. One that changes its structure is kept as `Diagonal` or `Dense`.
        refresh: iterations that share one; 1 changes nothing.

    Raises:
        TypeError: when `method` does not choose a transition.
        ValueError: when `refresh` is no whole number, 1 or more.
    """

    method: StatefulTransition
    refresh: int

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        fix(self, refresh=check_count("refresh", self.refresh, least=1))

    def for_adjoint(self) -> StatefulTransition:
        return self.method.for_adjoint()

    def init(self, guess: Tensor) -> Kept:
        return Kept(0, None, self.method.init(guess))

    def choose(self, lin: Linearization, carry: Kept) -> tuple[AbstractTransition, Kept]:
        due = self._due(lin)
        if carry.transition is not None and _none(due, lin):
            kept = carry
        else:
            fresh, inner = checked_choice(self.method, lin, carry.inner)
            kept = Kept(lin.rows.start, _renewed(carry, fresh, lin, due), inner)
        assert kept.transition is not None
        first = lin.rows.start - kept.start
        return take(kept.transition, slice(first, first + lin.residual.shape[0])), kept

    def _due(self, lin: Linearization) -> bool | Tensor:
        """The rows to renew: all or none, or `(n, *batch, 1)`."""
        due = lin.iteration % self.refresh == 0
        if lin.entered is None or (_torch.on_host(lin.entered) and not bool(lin.entered.any())):
            return due
        return due | lin.entered.expand(lin.residual.shape[:-1]).unsqueeze(-1)


def _none(due: bool | Tensor, lin: Linearization) -> bool:
    """Whether the host knows that no row is due. On an accelerator it does not look, and the answer is False."""
    if isinstance(due, bool):
        return not due
    return _torch.on_host(due) and not bool(lin.over_time.some(due.squeeze(-1)).any())


def _renewed(kept: Kept, fresh: AbstractTransition, lin: Linearization, due: bool | Tensor) -> AbstractTransition:
    """The rows from the first one at hand on: fresh where a row is due or new, kept otherwise, also those behind the
    rows at hand."""
    if kept.transition is None or due is True:
        return fresh
    if not isinstance(due, Tensor):
        due = torch.ones_like(lin.active) if due else torch.zeros_like(lin.active)
        due = due[None, ..., None]
    mask = due.expand(*lin.residual.shape[:-1], 1)
    old = take(kept.transition, slice(lin.rows.start - kept.start, None))
    n, length = lin.residual.shape[0], _rows(old, lin.residual.shape[0])
    if not _alike(old, fresh):
        old, fresh = _aligned(old, fresh, length, lin.residual)
    stored = iter(leaves(old))

    def renewed(leaf: Tensor) -> Tensor:
        before = next(stored)
        batch = lin.residual.shape[1:-1]
        leaf, before = (x.expand(x.shape[0], *batch, *x.shape[1 + len(batch) :]) for x in (leaf, before))
        shared = min(n, length)
        wide = mask[:shared].reshape(shared, *batch, *[1] * (leaf.ndim - 1 - len(batch)))
        return torch.cat([torch.where(wide, leaf[:shared], before[:shared]), leaf[shared:], before[n:]])

    return map_leaves(renewed, fresh)


def _rows(transition: AbstractTransition, without_leaves: int) -> int:
    """The number of rows of a transition; one without tensors fits any number."""
    found = leaves(transition)
    return found[0].shape[0] if found else without_leaves


def _alike(one: AbstractTransition, other: AbstractTransition) -> bool:
    """Whether two transitions differ in their numbers alone."""
    if type(one) is not type(other):
        return False
    for field in dataclasses.fields(one):  # pyright: ignore[reportArgumentType]
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, Tensor):
            fits = isinstance(b, Tensor) and a.shape[-1:] == b.shape[-1:] and a.ndim == b.ndim and a.dtype == b.dtype
        else:
            fits = _alike(a, b) if isinstance(a, AbstractTransition) else a == b
        if not fits:
            return False
    return True


def _aligned(
    old: AbstractTransition, fresh: AbstractTransition, length: int, like: Tensor
) -> tuple[AbstractTransition, AbstractTransition]:
    """Both in one structure: `Diagonal` if both are, else `Dense`. They may have different numbers of rows."""
    rows = torch.zeros_like(like[:1]).expand(length, *like.shape[1:])
    diagonal = isinstance(in_one_structure(take(old, slice(0, 1)), take(fresh, slice(0, 1)), like[:1])[0], Diagonal)
    if diagonal:
        return Diagonal(old.mv(torch.ones_like(rows))), Diagonal(fresh.mv(torch.ones_like(like)))
    return old.dense(rows), fresh.dense(like)
