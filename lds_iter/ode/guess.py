"""Where the iteration starts: the same method on a grid ten times coarser, which starts from a coarser one, and so on.

A Newton iteration from a constant state takes 6 to 8 iterations on a smooth problem, and from the initial state up to
22; from a solution on a grid ten times coarser it takes 2 or 3. That solution costs a tenth of the fine one, so that
all coarser grids together cost a ninth. (Nested iteration, as in full multigrid; Parareal's coarse solve, one step
after the other, would take N / 10 calls of `func` after each other.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lds_iter.ode.field import Field
from lds_iter.ode.grids import hermite

STRIDE = 10
"""Nodes of a grid for each node of the next coarser one."""

COARSEST_STEPS = 128
"""On a grid of this many steps or fewer, the steps are taken one after the other."""

CoarseSolver = Callable[[Tensor], Tensor]
"""From nodes `(n + 1)` to the states after the first one, `(n, *batch, D)`, not finite where there are none."""


def from_coarse(field: Field, s0: Tensor, nodes: Tensor, solve: CoarseSolver, *, smooth: bool) -> Tensor:
    """The guess on the grid `nodes`, `(T + 1)`, by a solution on every tenth node: `(T, *batch, D)`.

    Args:
        field: the slopes.
        s0: the initial state, `(*batch, D)`.
        nodes: of the fine grid.
        solve: solves on a coarser grid.
        smooth: join the coarse states by cubics with their slopes; by straight lines for stiff equations, whose
            slopes next to the solution say nothing.

    A sequence without a coarse solution starts from `s0` at all times.
    """
    last = len(nodes) - 1
    picked = torch.arange(0, last + STRIDE, STRIDE, device=nodes.device).clamp(max=last).unique_consecutive()
    coarse = nodes[picked]
    knots = torch.cat([s0.unsqueeze(0), solve(coarse)])
    lost = ~knots.isfinite().all(-1, keepdim=True).all(0)
    knots = torch.where(lost, s0, knots)
    left = torch.div(torch.arange(1, last + 1, device=nodes.device) - 1, STRIDE, rounding_mode="floor")
    size = (coarse[left + 1] - coarse[left]).to(s0.dtype).view(-1, *[1] * s0.ndim)
    x = (nodes[1:] - coarse[left]).to(s0.dtype).view(size.shape) / size
    before, after = knots[left], knots[left + 1]
    if not smooth:
        return before + x * (after - before)
    slopes = field(coarse, knots)
    slopes = torch.where(slopes.isfinite() & ~lost, slopes, 0)
    return hermite(x, size, before, slopes[left], after, slopes[left + 1])
