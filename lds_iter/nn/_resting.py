"""When torch's kernel answers a forward of a layer without further thought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.solution import Result, Solution

SHORTEST, SHORTEST_IN_TRAINING = 200, 64
"""Up to so many time steps the kernel answers at once: the few iterations of a solve cost as much in overhead alone, a
few hundred operations, where a step of the kernel is one; with its backward pass, several."""


@dataclass
class Resting:
    """For how many forwards of a shape torch's kernel answers without further thought: 1, 2, 4 ... up to 64.

    The number does not grow while there is still something to find out.

    Attributes:
        shape: of the input, with whether gradients were on.
        calls: forwards to go.
        next: forwards after the next decision for the kernel.
    """

    shape: tuple[Any, ...]
    calls: int
    next: int

    @staticmethod
    def after(before: Resting | None, input: Any, solutions: list[Solution]) -> Resting | None:
        """After a forward that was decided: none, unless every layer and direction went to the kernel."""
        stopped = all(bool((solution.result == Result.STOPPED).any()) for solution in solutions)
        if not stopped or not isinstance(input, Tensor):
            return None
        shape = _shape(input)
        rest = before.next if before is not None and before.shape == shape else 1
        explored = any(bool((solution.evaluations > 0).any()) for solution in solutions)
        return Resting(shape, rest, rest if explored else min(2 * rest, 64))

    def goes_on(self, input: Tensor) -> bool:
        """Whether the kernel answers this one too; counts down."""
        if self.calls == 0 or _shape(input) != self.shape:
            return False
        self.calls -= 1
        return True


def _shape(input: Tensor) -> tuple[Any, ...]:
    return *input.shape, input.dtype, input.device, torch.is_grad_enabled()
