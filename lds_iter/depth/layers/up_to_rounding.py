"""When two evaluations of the same layer count as the same, whatever the dtype they ran in."""

from __future__ import annotations

import torch
from torch import Tensor

WIDENED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""States run at least in float32; the layers keep their own dtype, and the cast is made where the two meet."""


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the states of a recurrence whose layers run in `dtype`."""
    return WIDENED.get(dtype, dtype)


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype, least: float = 1e-4) -> bool:
    """Whether two results of layers in `dtype` differ by rounding alone, relative to the largest number.

    The bound is `least` or eight units of rounding, the larger: a layer adds up hundreds of products, so float32 stays
    below 1e-5 and half precision within a few units; another configuration or a stale mask is off by 1e-2 and more.
    """
    bound = max(least, 8 * torch.finfo(dtype).eps)
    return bool((ours - theirs).abs().max() <= bound * theirs.abs().max())  # False for NaN


def others(hidden: Tensor) -> Tensor:
    """Hidden states of the same kind and size as `hidden` but other values: what a recording is checked on."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(hidden.shape, generator=generator, dtype=torch.float32, device="cpu")
    scale = hidden.detach().float().std(correction=0)
    return (hidden.detach().float() + scale * noise.to(hidden.device)).to(hidden.dtype)
