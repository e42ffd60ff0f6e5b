"""A method whose last carry can be used after a solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.base import LDSApproximation


@dataclass(frozen=True)
class Remembered(LDSApproximation):
    """Another method, unchanged, whose last carry stays in `carries`, so that its last update can be made."""

    method: LDSApproximation
    carries: list[Any]

    def init(self, guess: Tensor) -> Any:
        self.carries[:] = [self.method.init(guess)]
        return self.carries[0]

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        d, carry = self.method.update(lin, carry)
        self.carries[:] = [carry]
        return d, carry
