"""The solve of a layer, by its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.distributed.meeting import Backwards
from lds_iter.distributed.shards import TimeShards
from lds_iter.guesses import repeat_initial
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn.options import SolveOptions
from lds_iter.solution import Solution
from lds_iter.solve import solve


def solve_with(
    options: SolveOptions,
    method: LDSApproximation | AbstractStrategy,
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    rows: int,
    *,
    where: tuple[torch.nn.Module, int] | None = None,
    shards: TimeShards | None = None,
) -> Solution:
    """A solve that may fail: the layer says then what happens instead.

    Args:
        options: of the layer.
        method: that of the options, or the one that serves without.
        f, s0, inputs: see `solve`.
        rows: time steps of this process.
        where: the layer, and the number of layer and direction within it, for the warm start; None for no warm start.
        shards: who holds which time steps; None where this process holds all.
    """
    memory, length = options.warm_start, rows if shards is None else shards.length
    mesh: Any = None if shards is None else shards.messages.call.group
    if shards is not None and shards.backwards:
        mesh = Backwards(mesh)
    guess = None if memory is None or where is None else memory.recall(where, max(1, rows), s0)
    return solve(
        f,
        s0,
        inputs,
        method,
        guess=repeat_initial if guess is None else guess,
        rtol=options.rtol,
        atol=options.atol,
        window=options.window,
        max_iters=options.limit(length, method),
        throw=False,
        mesh=mesh,
    )
