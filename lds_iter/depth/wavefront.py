"""Greedy decoding of a recurrent-depth model as a wavefront over (token, depth): one solve, exact at every depth."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.depth.lattice import Lattice, Record
from lds_iter.depth.recurrent import Counted, Generated, RecurrentDepthModel
from lds_iter.methods.spelling import spelled
from lds_iter.solve import solve

TOLERANCE = 1e-6
"""On the residual. The model's own products round at a few 1e-7; the gap between two tokens' logits is far above."""


@torch.no_grad()
@spelled
def wavefront(
    model: RecurrentDepthModel, prompt: Tensor, count: int, rows: int, *, inner: int = 1, flight: int = 16
) -> Generated:
    """The tokens of the recurrence over (token, depth), several at once, by `li.solve`.

    Each token reads the final states of those before it, so the tokens are those of `one_by_one` where R steps reach
    the core's fixed point. How many rounds it takes depends on the rounding of the device a little, since tokens settle
    at rounding level. `verified` makes the same tokens with a small part of the work.

    Args:
        model: by the four functions; its attention must take the mask of its cache.
        prompt: `(P,)`, int64, at least one token, on the model's device.
        count: how many tokens to generate.
        rows: rows of the recurrence for each token.
        inner: steps of the core for each row, so that R = rows * inner.
        flight: tokens under way at the same time; the window is as many times `rows`.

    Raises:
        ValueError: for a prompt of another shape, and for numbers below 1.
    """
    counted = Counted(model)
    lattice = Lattice(counted, prompt, count, rows, inner)
    before = counted.work
    solution = solve(lattice, lattice.s0, lattice.inputs, Record(lattice), rtol=0, atol=TOLERANCE, window=flight * rows)
    _, tokens = lattice.split(solution.states[-1])
    return Generated(tokens, counted.work - before, int(solution.iterations))
