"""`Auto` beside torch's kernel, for layers on an accelerator: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto import Auto
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.nn._weights import WEIGHT_NAMES


@dataclass(frozen=True, eq=False)
class TorchKernel:
    """Torch's own kernel for one layer and direction.

    Attributes:
        module: the layer of torch, for its kind.
        weights: by torch's names.
        x: the input, `(T, B, D_in)`.
        start: the states before the first step, `(B, D)` each.
    """

    module: torch.nn.RNNBase
    weights: dict[str, Tensor]
    x: Tensor
    start: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """The name of the kernel in decisions."""
        return f"the kernel of torch.nn.{self.module.mode.partition('_')[0]}"

    def __call__(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Evaluate: the output `(T, B, D)` and the final states `(B, D)`, with a graph if autograd records."""
        flat = [self.weights[name] for name in WEIGHT_NAMES if name in self.weights]
        first: Any = tuple(state.unsqueeze(0).contiguous() for state in self.start)
        first = first if isinstance(self.module, torch.nn.LSTM) else first[0]
        function: Any = getattr(torch, self.module.mode.lower())  # such as torch.rnn_tanh
        output, *final = function(
            self.x, first, flat, "bias_ih" in self.weights, 1, 0.0, self.module.training, False, False
        )
        return output, tuple(state[0] for state in final)

    def run(self) -> Any:
        """Evaluate for a timing: without gradients, on copies that do not trigger hooks of the parameters."""
        with torch.no_grad():
            return self()


@dataclass(frozen=True)
class BesideKernel(AbstractStrategy):
    """`Auto` with a kernel of torch in place of sequential steps; see `Auto.run_beside`."""

    auto: Auto
    kernel: TorchKernel

    def run(self, problem: Problem, guess: Tensor, options: LoopOptions, observers: Sequence[Observer]) -> LoopState:
        """Solve, or stop so that the kernel computes the answer."""
        return self.auto.run_beside(self.kernel, problem, guess, options, observers)

    def for_adjoint(self) -> Auto:
        """The strategy itself: torch has no kernel for the adjoint recurrence."""
        return self.auto.for_adjoint()
