"""Torch's own kernel, beside which `Auto` races for layers on an accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.nn._weights import WEIGHT_NAMES


@dataclass(frozen=True, eq=False)
class TorchKernel:
    """Torch's own kernel for one layer and direction; its name in decisions is that of torch's layer.

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

    def __str__(self) -> str:
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
