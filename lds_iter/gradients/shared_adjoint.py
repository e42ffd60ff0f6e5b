"""The adjoint recurrence backwards in time, over the rows that one process holds, or over all.

The process that holds time step k holds what the step from `l_k` to `l_{k-1} = J_k^T l_k + g_{k-1}` needs: the Jacobian
at its own states and inputs. Only `g_{k-1}` of its first step comes from the process before it, which in turn gets that
`l_{k-1}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.distributed.rank_errors import BACKWARD
from lds_iter.distributed.shards import TimeShards
from lds_iter.loop.state import LoopState, Problem
from lds_iter.recurrence import take_rows
from lds_iter.solution import Result


@dataclass(frozen=True)
class SharedAdjoint:
    """The reversed recurrence over the rows of this process, in the units of `scale`.

    Attributes:
        inputs: the states before each step, the inputs of `f`, and the gradients before it, reversed in time.
        start: the last of all gradients, `(*batch, D)`.
        scale: the largest gradient of each sequence, `(1, *batch, 1)`.
        known: whether all gradients are finite, a bool tensor.
        forward: who holds which time steps.
        backward: who holds which rows of the reversed recurrence.
    """

    inputs: tuple[Tensor, Any, Tensor]
    start: Tensor
    scale: Tensor
    known: Tensor
    forward: TimeShards
    backward: TimeShards

    def finished(self, state: LoopState) -> Tensor:
        """All `l_t` of the time steps of this process, from the end of the reversed solve."""
        found = state.states[1:].flip(0)
        after = self.forward.pass_on(found[0], self.start, -1)
        if self.forward.is_empty:
            return torch.zeros_like(found)
        own = found[:0] if self.backward.is_empty else found if self.forward.place == 0 else found[1:]
        lost = (state.result != int(Result.SUCCESS)) | ~self.known
        return (torch.cat([own, after[None]]) * self.scale).masked_fill(lost.unsqueeze(-1), torch.nan)


def shared_adjoint(problem: Problem, shards: TimeShards, states: Tensor, g: Tensor) -> SharedAdjoint:
    """The reversed recurrence, from the gradients of the states that this process holds.

    Args:
        problem: detached; its `s0` is the state before the first row of this process.
        shards: who holds which time steps.
        states: the solution, `(n, *batch, D)`.
        g: the gradients of the states.
    """
    shards, first = shards.during(BACKWARD), shards.holders[0]
    backward = shards.reversed([size - (rank == first) for rank, size in enumerate(shards.sizes)])
    gathered = shards.gather(g.isfinite().all(), g.abs().amax((0, -1)), g[-1])
    finite, largest, ends = (shards.in_order(one) for one in gathered)
    known, largest = finite.all(), largest.amax(0)
    scale = largest.where(known & (largest > 0), 1)[None, ..., None]
    g, ends = (x.where(known, 0) / scale for x in (g, ends))
    if shards.place == 0 and not backward.is_empty:
        rows = states[:-1], take_rows(problem.inputs, 1, len(states)), g[:-1]
    else:  # of an empty process, one row that stays closed
        before = ends[shards.place - 1 : shards.place] if shards.place else g[:1]
        rows = torch.cat([problem.s0[None], states[:-1]]), problem.inputs, torch.cat([before, g[:-1]])
    inputs = pytree.tree_map(lambda leaf: leaf.flip(0) if isinstance(leaf, Tensor) else leaf, rows)
    return SharedAdjoint(inputs, ends[-1], scale, known, shards, backward)
