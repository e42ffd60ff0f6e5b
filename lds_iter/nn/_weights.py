"""What the recurrences of `torch.nn` share: finding the weights of a layer, and multiplying by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def layer_weights(module: torch.nn.RNNBase, layer: int, backward: bool) -> dict[str, Tensor]:
    """The weights that one layer and direction of a `torch.nn` module has, by their names without the suffix.

    Looked up by name, not in the module's flat list, so that parametrizations and `torch.func.functional_call` work.
    """
    suffix = f"l{layer}" + ("_reverse" if backward else "")
    if not hasattr(module, f"weight_ih_{suffix}"):
        raise ValueError(f"{module} has no layer {layer}{' in the backward direction' if backward else ''}.")
    found = {name: getattr(module, f"{name}_{suffix}", None) for name in WEIGHT_NAMES}
    return {name: weight for name, weight in found.items() if weight is not None}


def apply_weight(h: Tensor, weight: Tensor) -> Tensor:
    """`h W^T` in one matrix product over all rows, in memory of its own."""
    return (h.reshape(-1, h.shape[-1]) @ weight.T).view(*h.shape[:-1], weight.shape[0])


SMALL_WIDTH = 16
"""Up to this width `scaled_sum` pays: its product has D times as much arithmetic, but runs at full speed."""


def scaled_sum(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """`sum_k diag(a_k) W_k` for every row, `(n, *batch, D)` each to `(n, *batch, D, D)`, for small D.

    Row i of the sum is a combination of the rows i of the weights. Adding up outer products takes loops of length D,
    which are slow; with zeros for the rows other than i it is one matrix product over all rows, four times as fast at
    D = 8.
    """
    width, all_slopes, every = slopes[0].shape[-1], torch.cat(list(slopes), -1), torch.stack(list(weights))
    own = torch.eye(width, dtype=every.dtype, device=every.device).unsqueeze(-1)
    spread = (every.unsqueeze(-2) * own).flatten(-2).flatten(0, 1)  # (K D, D D): W_k[i, :] stands at (k i, i :)
    return apply_weight(all_slopes, spread.T).view(*slopes[0].shape, width)


def own_blocks(weight: Tensor, size: int) -> Tensor:
    """The blocks of `size` along the diagonal of a square matrix, `(D // size, size, size)`."""
    count = weight.shape[-1] // size
    own = torch.arange(count, device=weight.device)
    return weight.reshape(count, size, count, size)[own, :, own]
