"""Whether a network treats the images of a batch one by one: its first image is evaluated again in other company."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

MISMATCH = {torch.float32: 2e-3, torch.float64: 1e-6}
"""Largest difference between an output alone and in a batch, relative to the largest number: kernels for batches round
otherwise, with TF32 to 1e-3; a network that mixes up its samples is wrong by 3e-2 and more."""

HALF_MISMATCH = 2e-2


def differs(result: Any, alone: Any) -> bool:
    """Whether a result out of a batch is not the one that the network gave in another one."""
    pairs = zip(pytree.tree_leaves(result), pytree.tree_leaves(alone), strict=True)
    return any(_far(one, other) for one, other in pairs if isinstance(other, Tensor) and other.is_floating_point())


def _far(one: Tensor, other: Tensor) -> bool:
    bound = MISMATCH.get(other.dtype, HALF_MISMATCH) * float(other.float().abs().max())
    return one.shape != other.shape or not bool(((one - other).float().abs() <= bound).all())
