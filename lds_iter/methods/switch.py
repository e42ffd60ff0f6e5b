"""Change the method when a rule says so: at a small enough residual, or when progress stalls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.rules import AbstractRule, answer_of


@dataclass(frozen=True)
class Switched:
    """The carry of a `Switch`.

    Attributes:
        done: the sequences that have changed, bool, `(*batch)`.
        iterations: updates of each sequence, int64, `(*batch)`.
        since: updates that each sequence has had from the second method, int64, `(*batch)`.
        moved: the largest number of the last update, `(*batch)`.
        rule, first, second: the carries of the rule and of both methods.
    """

    done: Tensor
    iterations: Tensor
    since: Tensor
    moved: Tensor
    rule: Any
    first: Any
    second: Any


@dataclass(frozen=True)
class _Seen:
    """The iterate as the rule reads it; see `rules.Seen`."""

    iterations: Tensor
    residual: Tensor
    update: Tensor
    stepped: bool = False


@dataclass(frozen=True)
class Switch(LDSApproximation):
    """`first` until the rule holds, then `second` for good; each sequence of a batch for itself.

    `Switch(Jacobi(), Newton(), Below(0.1))`, `Switch(Newton(), TrustRegion(Newton()), Stalled())`. To change after a
    number of iterations there is `Then`, which also serves a sliding window row by row.

    Attributes:
        first, second: any methods. The second one counts its own iterations.
        when: the rule: `Below(0.1) | Stalled(5)`, `After(4)`, `SmallUpdate(1e-3)`, `Elapsed(1.0)` or your own.

    Raises:
        TypeError: for something else.
    """

    first: LDSApproximation
    second: LDSApproximation
    when: AbstractRule

    def __post_init__(self) -> None:
        check_instance("first", self.first, LDSApproximation, "Jacobi() or Newton()")
        check_instance("second", self.second, LDSApproximation, "Newton() or TrustRegion(Newton())")
        check_instance("when", self.when, AbstractRule, "Below(0.1) or Stalled()")

    def for_adjoint(self) -> LDSApproximation:
        return self.second.for_adjoint()

    def init(self, guess: Tensor) -> Switched:
        unknown = guess.new_full(guess.shape[1:-1], torch.inf)
        none = torch.zeros_like(unknown, dtype=torch.int64)
        rule = self.when.init(_Seen(none, unknown, unknown[None, ..., None]))
        first, second = self.first.init(guess), self.second.init(guess)
        return Switched(unknown < 0, none, none.clone(), unknown.clone(), rule, first, second)

    def update(self, lin: Linearization, carry: Switched) -> tuple[Tensor, Switched]:
        largest = lin.over_time.largest(lin.residual.abs().amax(-1))
        seen = _Seen(carry.iterations, largest, carry.moved[None, ..., None])
        now, rule = answer_of(self.when, seen, carry.rule)
        rule = lin.keep(rule, carry.rule)
        done = carry.done | (lin.over_time.agreed(now) & lin.active)
        early, late = lin.active & ~done, lin.active & done
        first, second, d = carry.first, carry.second, torch.zeros_like(lin.residual)
        if _some(early, lin):
            proposal, first = self.first.update(replace(lin, active=early), carry.first)
            d = torch.where(early[..., None], proposal, d)
        if _some(late, lin):
            given = replace(lin, active=late, iteration=_own_count(lin, carry.since, late), entered=late & ~carry.done)
            proposal, second = self.second.update(given, carry.second)
            d = torch.where(late[..., None], proposal, d)
        moved = lin.keep(lin.over_time.largest(d.abs().masked_fill(~lin.open, 0).amax(-1)), carry.moved)
        return d, Switched(done, carry.iterations + lin.active, carry.since + late, moved, rule, first, second)


def _own_count(lin: Linearization, since: Tensor, late: Tensor) -> int | Tensor:
    """Updates that each row has had from the second method: all of its sequence, or all since the row came up."""
    if isinstance(lin.iteration, int):
        if _torch.on_host(since):
            counts = since[late].unique()
            if len(counts) == 1:
                return int(counts)
        return torch.where(late, since, 0).expand(lin.residual.shape[:-1]).unsqueeze(-1)
    return torch.minimum(lin.iteration, since.to(lin.iteration.dtype).unsqueeze(-1))


def _some(which: Tensor, lin: Linearization) -> bool:
    """Whether any sequence may be. The host looks on a CPU, and in a sliding window, whose frontier it reads at
    every iteration anyway; elsewhere both methods run."""
    looks = _torch.on_host(which) or isinstance(lin.iteration, Tensor)
    return bool(which.any()) if looks else True
