"""What watches a solve: several callbacks as one, and a method whose last carry can be used afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import lds_iter as li


@dataclass(frozen=True)
class Observers:
    """Several callbacks as one."""

    each: tuple[Callable[[li.Progress], object], ...]

    def __call__(self, progress: li.Progress) -> None:
        for observer in self.each:
            observer(progress)


@dataclass(frozen=True)
class Remembered(li.LDSApproximation):
    """Another method, unchanged, whose last carry stays in `carries`, so that its last update can be made."""

    method: li.LDSApproximation
    carries: list[Any]

    def init(self, guess: Tensor) -> Any:
        self.carries[:] = [self.method.init(guess)]
        return self.carries[0]

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        d, carry = self.method.update(lin, carry)
        self.carries[:] = [carry]
        return d, carry
