"""The rules of the library: by the residual, the count, the update, and the clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.methods.arguments import check_count, check_number, fix
from lds_iter.methods.rules import AbstractRule, Seen


@dataclass(frozen=True)
class Below(AbstractRule):
    """The largest residual has fallen to `residual`.

    Attributes:
        residual: the bound, in the units of the states.

    Raises:
        ValueError: when it is no number of at least 0.
    """

    residual: float

    def __post_init__(self) -> None:
        fix(self, residual=check_number("residual", self.residual, 0, math.inf))

    def init(self, progress: Seen) -> None:
        return None

    def holds(self, progress: Seen, carry: None) -> tuple[Tensor, None]:
        return progress.residual <= self.residual, None


@dataclass(frozen=True)
class Stalled(AbstractRule):
    """The largest residual has not fallen below `factor` times its best for `patience` iterations in a row.

    Sequential steps, which `Auto` may take, do not count.

    Attributes:
        patience: iterations without progress.
        factor: between 0 and 1: what counts as progress.

    Raises:
        ValueError: for other numbers.
    """

    patience: int = 3
    factor: float = 0.9

    def __post_init__(self) -> None:
        fix(
            self,
            patience=check_count("patience", self.patience, least=1),
            factor=check_number("factor", self.factor, 0, 1, open_low=True),
        )

    def init(self, progress: Seen) -> tuple[Tensor, Tensor]:
        return torch.full_like(progress.residual, torch.inf), torch.zeros_like(progress.residual)

    def holds(self, progress: Seen, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        best, since = carry
        if getattr(progress, "stepped", False):
            return torch.zeros_like(since, dtype=torch.bool), carry
        better = progress.residual < self.factor * best
        since = torch.where(better, 0, since + 1)
        return since >= self.patience, (torch.where(better, progress.residual, best), since)


@dataclass(frozen=True)
class After(AbstractRule):
    """The sequence has had a given number of iterations.

    Attributes:
        iterations: how many.

    Raises:
        ValueError: when it is no whole number, 0 or more.
    """

    iterations: int

    def __post_init__(self) -> None:
        fix(self, iterations=check_count("iterations", self.iterations, least=0))

    def init(self, progress: Seen) -> None:
        return None

    def holds(self, progress: Seen, carry: None) -> tuple[Tensor, None]:
        return progress.iterations >= self.iterations, None


@dataclass(frozen=True)
class SmallUpdate(AbstractRule):
    """No number of the states is moved by more than `size`.

    Attributes:
        size: the bound, in the units of the states.

    Raises:
        ValueError: when it is no number of at least 0.
    """

    size: float

    def __post_init__(self) -> None:
        fix(self, size=check_number("size", self.size, 0, math.inf))

    def init(self, progress: Seen) -> None:
        return None

    def holds(self, progress: Seen, carry: None) -> tuple[Tensor, None]:
        return progress.update.abs().amax((0, -1)) <= self.size, None


@dataclass(frozen=True)
class Elapsed(AbstractRule):
    """A given time has passed since the first iterate. Counts then depend on the clock. Not for compiled iterations.

    Attributes:
        seconds: of wall-clock time.

    Raises:
        ValueError: when it is no number of at least 0.
    """

    seconds: float

    def __post_init__(self) -> None:
        fix(self, seconds=check_number("seconds", self.seconds, 0, math.inf))

    def init(self, progress: Seen) -> float:
        return time.monotonic()

    def holds(self, progress: Seen, carry: float) -> tuple[Tensor, float]:
        over = time.monotonic() - carry >= self.seconds
        return torch.full_like(progress.residual, over, dtype=torch.bool), carry
