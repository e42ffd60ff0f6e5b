"""Arguments and results of networks as trees of tensors: compared, own_copy, filled with NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal, number by number; NaN equals nothing."""
    left, spec = pytree.tree_flatten(one)
    right, other_spec = pytree.tree_flatten(other)
    return spec == other_spec and all(_same(a, b) for a, b in zip(left, right, strict=True))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        return alike and torch.equal(one, other)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    if isinstance(one, str | int | float | bool | type(None)):
        return type(one) is type(other) and one == other
    return one is other


def own_copy(tree: Any) -> Any:
    """The same with tensors of its own: a loop may write into what it is given."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def unknown(tree: Any) -> Any:
    """The same with NaN in place of every floating number."""
    return pytree.tree_map(lambda leaf: torch.full_like(leaf, torch.nan) if _floating(leaf) else leaf, tree)


def open_to(tree: Any) -> bool:
    """Whether a tree holds NaN, and so depends on an answer that is not known yet."""
    return any(_floating(leaf) and bool(leaf.isnan().any()) for leaf in pytree.tree_leaves(tree))


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def finite(tree: Any) -> Any:
    """The same with zeros in place of every number."""
    return pytree.tree_map(lambda leaf: torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf, tree)
