"""Which leading dimensions of a carry are a batch of sequences that do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def independent_dims(step: Callable[[Any], Any], init: Any) -> int:
    """How many leading dimensions that all leaves share `step` treats as a batch.

    One step from a carry whose first batch element is NaN tells: NaN passes through every sum and product, those with
    zero among them, so the other elements stay finite only where `step` does not mix. The last dimension of the widest
    leaf is never batch.

    Args:
        step: from a carry to the next one, at the first inputs.
        init: the first carry.
    """
    leaves = pytree.tree_leaves(init)
    shared = shared_dims(leaves)
    if all(size == 1 for size in leaves[0].shape[:shared]):
        return shared
    with torch.no_grad():
        after = pytree.tree_leaves(step(pytree.tree_map(lambda leaf: _spoilt(leaf, shared), init)))
    if any(not isinstance(leaf, Tensor) or leaf.shape[:shared] != leaves[0].shape[:shared] for leaf in after):
        return 0
    return untouched_dims([leaf.isnan() for leaf in after], shared)


def shared_dims(leaves: list[Tensor]) -> int:
    """How many leading dimensions all tensors share, the last one of the widest left out."""
    shared, most = 0, max(leaf.ndim for leaf in leaves) - 1
    while shared < most and all(
        leaf.ndim > shared and leaf.shape[shared] == leaves[0].shape[shared] for leaf in leaves
    ):
        shared += 1
    return shared


def untouched_dims(reached: list[Tensor], shared: int) -> int:
    """How many of the `shared` dimensions are a batch, by what the first element of the whole batch has reached.

    Args:
        reached: bool tensors that begin with the shared dimensions: numbers that depend on the first element.
        shared: of them.
    """
    touched = torch.stack([leaf.reshape((*leaf.shape[:shared], -1)).any(-1) for leaf in reached]).any(0)
    while shared:
        touched[(0,) * shared] = False
        if not bool(touched.any()):
            return shared
        shared -= 1
        touched = touched.any(-1)
    return 0


def _spoilt(leaf: Tensor, shared: int) -> Tensor:
    spoilt = leaf.detach().clone()
    spoilt[(0,) * shared] = torch.nan
    return spoilt
