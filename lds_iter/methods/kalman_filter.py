"""The estimates of a Kalman filter with full matrices, without gradients: `kalman_scan` at half the work.

The rows are cut into blocks, and all blocks go through their rows at once, twice (`kalman_steps`). The first time every
block starts from a state that is known but not to us: the columns of an identity, carried along, end as its map
(`kalman_maps`). A scan over the maps gives gain and mean before every block, and the second time they run from there.
That is six products and an inverse a row for the first time, three and an inverse for the second, of which nothing is
kept but the means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.methods.kalman_maps import Maps
from lds_iter.methods.kalman_steps import TINY, Planes, Products, Steps

BLOCK = 16
"""Rows per block. Longer ones leave fewer maps to scan, each several times a step, and call more operations."""

WIDE = 16
"""From this size on blocks are twice as long: steps of fewer blocks still fill their operations."""


def filtered(j: Tensor, r: Tensor, q: Tensor, fixed: Tensor, gain: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates of `n` steps of `m` sequences.

    Args:
        j: the matrices `J_t`, `(n, m, D, D)`.
        r: `r_t`, `(n, m, D)`.
        q: the weight of the observations, `(n, m, 1)`; of a sequence either 0 or not 0 in all rows that are not fixed.
        fixed: true where `d_t = r_t` exactly, `(n, m, 1)`; there `q` must be 0.
        gain: `K` before the first step, `(m, D, D)`.
        before: the estimate before the first step, `(m, D)`.

    Returns:
        `d_t`, `(n, m, D)`, and `K` after the last step.
    """
    n, mates, width = r.shape
    length = min(BLOCK if width < WIDE else 2 * BLOCK, n)
    blocks = -(-n // length)
    small = width < TINY and j.device.type == "cpu" and not torch.compiler.is_compiling()
    kind = Planes if small else Products  # compilers do not take results that go into planes
    parts = j.mT, r.unsqueeze(-1), q.unsqueeze(-1), fixed.unsqueeze(-1)
    jts, rs, qs, still = (kind.laid_out(_by_blocks(x, blocks, length)) for x in parts)
    jts.masked_fill_(still, 0)
    rows = list(zip(jts, rs, qs, strict=True))
    gains, means = gain.unsqueeze(0), before[None, ..., None]
    if blocks > 1:
        one = torch.eye(width, dtype=j.dtype, device=j.device).expand(blocks, mates, width, width)
        maps = _block_maps(rows, one, kind(jts[0], width + 1))
        gains, means = maps.take(slice(0, -1)).before_each(gains, means)
    d, last = _estimates(rows, torch.cat([gains, means], -1), kind(jts[0], 1), (n - 1) % length)
    return d.unflatten(1, (blocks, mates)).transpose(0, 1).flatten(0, 1)[:n].squeeze(-1), last[-mates:]


def _block_maps(rows: list[tuple[Tensor, ...]], one: Tensor, steps: Steps) -> Maps:
    """The maps of all blocks, `(blocks, m, ...)`, their steps composed one by one."""
    zero = torch.zeros_like(one)
    steps.state.copy_(steps.laid_out(torch.cat([zero, one, zero[..., :1]], -1).unsqueeze(0))[0])
    eh = torch.zeros_like(steps.columns)
    for row in rows:
        steps(*row)
        steps.observe(eh)
    # Without damping K is 0 and what was observed is of no use, but may be infinite.
    eh.masked_fill_(rows[-1][-1] == 0, 0)
    c, ab, eh = (steps.restored(x.unsqueeze(0))[0].unflatten(0, one.shape[:2]) for x in (steps.gain, steps.columns, eh))
    return Maps(ab, c, eh)


def _estimates(rows: list[tuple[Tensor, ...]], start: Tensor, steps: Steps, final: int) -> tuple[Tensor, Tensor]:
    """The means of all steps, `(length, blocks * m, D, 1)`, and the gains of all blocks after their step `final`."""
    steps.state.copy_(steps.laid_out(start.unsqueeze(0))[0])
    found, last = rows[0][1].new_empty(len(rows), *rows[0][1].shape), steps.gain
    for t, (row, mean) in enumerate(zip(rows, found, strict=True)):
        steps(*row)
        mean.copy_(steps.columns)
        if t == final:  # zeros fill up the last block
            last = steps.gain.clone()
    return steps.restored(found), steps.restored(last.unsqueeze(0))[0]


def _by_blocks(x: Tensor, blocks: int, length: int) -> Tensor:
    """The first rows of all blocks, then the second ones ..., `(length, blocks, m, ...)`; zeros fill up the last."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (blocks, length)).transpose(0, 1)
