"""Change the method when a rule says so: at a small enough residual, or when progress stalls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_count, check_instance
from lds_iter.methods.base import LDSApproximation


class AbstractRule(ABC):
    """When to go on to the next method, per sequence, from the largest residual of its open rows."""

    @abstractmethod
    def init(self, residual: Tensor) -> Any:
        """The carry before the first iteration: None, or tensors `(*batch)`, one or a tuple; `residual`: inf."""

    @abstractmethod
    def holds(self, residual: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Whether to change now, bool, and the next carry; `residual`: of this iterate, `(*batch)`."""


@dataclass(frozen=True)
class Below(AbstractRule):
    """The largest residual has fallen to `residual`."""

    residual: float

    def init(self, residual: Tensor) -> None:
        return None

    def holds(self, residual: Tensor, carry: None) -> tuple[Tensor, None]:
        return residual <= self.residual, None


@dataclass(frozen=True)
class Stalled(AbstractRule):
    """The largest residual has not fallen below `factor` times its best for `patience` iterations in a row."""

    patience: int = 3
    factor: float = 0.9

    def __post_init__(self) -> None:
        check_count("patience", self.patience, least=1)
        if not 0 < self.factor <= 1:
            raise ValueError(f"`factor` must lie in (0, 1], got {self.factor}.")

    def init(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        return residual, torch.zeros_like(residual)

    def holds(self, residual: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        best, since = carry
        better = residual < self.factor * best
        since = torch.where(better, 0, since + 1)
        return since >= self.patience, (torch.where(better, residual, best), since)


@dataclass(frozen=True)
class Switched:
    """What a `Switch` remembers: who has changed, bool, `(*batch)`, and the carries of the rule and of both methods."""

    done: Tensor
    rule: Any
    first: Any
    second: Any


@dataclass(frozen=True)
class Switch(LDSApproximation):
    """`first` until the rule holds, then `second` for good; each sequence of a batch for itself.

    `Switch(Jacobi(), Newton(), Below(0.1))`, `Switch(Newton(), TrustRegion(Newton()), Stalled())`. To change after a
    number of iterations there is `Then`, which also serves a sliding window row by row.

    Attributes:
        first, second: any methods.
        when: the rule: `Below`, `Stalled`, or your own.
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
        return Switched(unknown < 0, self.when.init(unknown), self.first.init(guess), self.second.init(guess))

    def update(self, lin: Linearization, carry: Switched) -> tuple[Tensor, Switched]:
        now, rule = self.when.holds(lin.residual.abs().amax((0, -1)), carry.rule)
        if rule is not None:  # those that rest keep what they have
            rule = pytree.tree_map(lambda new, old: torch.where(lin.active, new, old), rule, carry.rule)
        done = carry.done | (now & lin.active)
        early, late = lin.active & ~done, lin.active & done
        first, second, d = carry.first, carry.second, torch.zeros_like(lin.residual)
        if _some(early, lin):
            given = replace(lin, residual=lin.residual.clone(), active=early)
            proposal, first = self.first.update(given, carry.first)
            d = torch.where(early[..., None], proposal, d)
        if _some(late, lin):
            given = replace(lin, active=late, entered=late & ~carry.done)
            proposal, second = self.second.update(given, carry.second)
            d = torch.where(late[..., None], proposal, d)
        return d, Switched(done, rule, first, second)


def _some(which: Tensor, lin: Linearization) -> bool:
    """Whether there may be any. The host looks where that is free, or where a window slides, whose frontier it reads at
    every iteration anyway; elsewhere both methods run."""
    looks = _torch.on_host(which) or isinstance(lin.iteration, Tensor)
    return bool(which.any()) if looks else True
