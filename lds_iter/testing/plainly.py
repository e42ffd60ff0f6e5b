"""The loop over time, written out once more so that `li.sequential` is not its own judge; recurrences to test on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.recurrence import Function, take_rows


def plain_loop(
    f: Function, s0: Tensor, inputs: Any, *, shaken: Callable[[Tensor, int], Tensor] | None = None
) -> Tensor:
    """All states `(T, *batch, D)`, one after the other.

    Args:
        f, s0, inputs: see `solve`.
        shaken: changes each state before the next step, `(s, t) -> s`; to see what becomes of rounding errors.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    states, s = [], s0
    for t in range(len(leaves[0])):
        s = f(s.unsqueeze(0), take_rows(inputs, t, t + 1))[0]
        states.append(s)
        s = s if shaken is None else shaken(s, t)
    return torch.stack(states)


def tanh_network(width: int, gain: float = 0.9, seed: int = 0, dtype: torch.dtype = torch.float64) -> Function:
    """`tanh(W s + u)` with a `W` of spectral radius about `gain`: every coordinate feeds every other."""
    generator = torch.Generator().manual_seed(seed)
    weight = (gain * torch.randn(width, width, generator=generator, dtype=torch.float64, device="cpu") / width**0.5).to(
        dtype
    )
    return lambda s, u: torch.tanh(s @ weight.T.to(s.device) + u)


def sine_map(s: Tensor, u: Tensor) -> Tensor:
    """`0.8 sin(s) + u`: elementwise, so that it rounds the same in any company."""
    return 0.8 * torch.sin(s) + u


def random_problem(
    length: int, batch: tuple[int, ...] = (), width: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """`s0`, `(*batch, D)`, and inputs, `(T, *batch, D)`, of normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    s0 = torch.randn(*batch, width, generator=generator, dtype=dtype, device="cpu")
    return s0, torch.randn(length, *batch, width, generator=generator, dtype=dtype, device="cpu")
