"""The Jacobian row by row, in reverse mode.

One product `e_i^T J` with the same `e_i` in every row (time step and batch element) gives row i of all blocks at once.
Not under `vmap`, which not every function allows: `f` is evaluated on several copies of its rows instead, and one
product gives a row to each copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.pullback import Map
from lds_iter.recurrence import Function


def per_row(
    f: Function,
    s: Tensor,
    inputs: Any,
    keep: Callable[[Tensor, Tensor], Tensor],
    copies: int,
    pulled: Callable[[Map, Tensor], Map],
) -> Tensor:
    """What `keep(e_i^T J, e_i)` retains of every row i of the Jacobians, stacked in front.

    Args:
        f: the recurrence.
        s: the states, `(n, *batch, D)`.
        inputs: of these rows.
        keep: from some rows `(k, n, *batch, D)` and their unit vectors `(k, 1, ..., 1, D)` to what is wanted of them,
            `(k, ...)`.
        copies: of the rows, at most D.
        pulled: from a function and its states to the products `w -> J^T w`.
    """
    width, n = s.shape[-1], s.shape[0]
    given = _copied(inputs, copies)
    pull = pulled(lambda s: f(s, given), _copied(s, copies))
    units = torch.eye(width, dtype=s.dtype, device=s.device).view(width, *[1] * (s.ndim - 1), width)
    kept = []
    for some in units.split(copies):
        seeds = some.expand(len(some), *s.shape)
        if len(some) < copies:
            seeds = torch.cat([seeds, s.new_zeros(copies - len(some), *s.shape)])
        rows = pull(seeds.flatten(0, 1)).unflatten(0, (copies, n))[: len(some)]
        kept.append(keep(rows, some))
    return torch.cat(kept)


def _copied(tree: Any, copies: int) -> Any:
    """A pytree whose tensors `(n, ...)` are repeated along their first dimension."""
    if copies == 1:
        return tree
    return pytree.tree_map(
        lambda leaf: leaf.repeat(copies, *[1] * (leaf.ndim - 1)) if isinstance(leaf, Tensor) else leaf, tree
    )
