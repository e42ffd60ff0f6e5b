"""What a method is tried on, and what a law is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.along import linearization
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import Function
from lds_iter.solution import Solution
from lds_iter.solve import solve
from lds_iter.testing.findings import Examination


@dataclass(frozen=True)
class Trial:
    """What a method is tried on.

    Attributes:
        method: the method.
        f, s0, inputs: a recurrence.
        truth: its states, step by step, `(T, *batch, D)`.
        windows: to solve with; None is T.
        mates: how far states of a batch element may be from those solved alone, as a part of the largest; None where
            counts may differ too.
        seed: of random numbers.
    """

    method: LDSApproximation
    f: Function
    s0: Tensor
    inputs: Any
    truth: Tensor
    windows: tuple[int | None, ...]
    mates: float | None
    seed: int

    def solve(self, method: LDSApproximation | None = None, **options: Any) -> Solution:
        """The solve of the recurrence, without raising where it does not converge."""
        return solve(self.f, self.s0, self.inputs, self.method if method is None else method, throw=False, **options)

    @property
    def tight(self) -> float:
        """A tolerance close to rounding."""
        return 1e-12 if self.s0.dtype == torch.float64 else 1e-6

    def linearization(self) -> Linearization:
        """`f` along the repeated initial state, all rows."""
        return linearization(self.f, self.s0, self.s0.expand_as(self.truth).contiguous(), self.inputs)


Law = Callable[[Examination, Trial], None]
