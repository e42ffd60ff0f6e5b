"""Torch's own kernel, beside which `Auto` races for layers on an accelerator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lds_iter.nn._weights import WEIGHT_NAMES


def torch_kernel(
    module: torch.nn.RNNBase, weights: dict[str, Tensor], x: Tensor, start: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Evaluate one layer and direction by torch's own kernel.

    Args:
        module: the layer of torch, for its kind.
        weights: by torch's names.
        x: the input, `(T, B, D_in)`.
        start: the states before the first step, `(B, D)` each.

    Returns:
        The output `(T, B, D)` and the final states `(B, D)`, with a graph if autograd records.
    """
    flat = [weights[name] for name in WEIGHT_NAMES if name in weights]
    first: Any = tuple(state.unsqueeze(0).contiguous() for state in start)
    first = first if isinstance(module, torch.nn.LSTM) else first[0]
    function: Any = getattr(torch, module.mode.lower())  # such as torch.rnn_tanh
    output, *final = function(x, first, flat, "bias_ih" in weights, 1, 0.0, module.training, False, False)
    return output, tuple(state[0] for state in final)
