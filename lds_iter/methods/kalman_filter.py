"""The estimates of a Kalman filter with full matrices, without gradients: `kalman_scan` in memory that is used again.

A step of all blocks makes half a dozen tensors of the size of its Jacobians. Freshly allocated they cost more than the
products that fill them, so here each has its place. And the affine recursion of the estimates runs along with that of
the gains, inside all blocks at once,

    d_t = S_t + P_t d,    P_t = G_t J_t P_{t-1},    S_t = G_t (J_t S_{t-1} + r_t)

with `d` the estimate before the block, so that nothing but the last rows of the blocks has to be scanned over time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.methods.inverses import Inverses
from lds_iter.methods.kalman_scan import BLOCK, Maps, Matrices, gains_before
from lds_iter.scan import linear_scan
from lds_iter.transitions import Dense


class Stepper:
    """Steps of the Riccati recursion for many sequences at once.

    Args:
        like: one tensor of Jacobians of a step, `(m, D, D)`.
    """

    def __init__(self, like: Tensor) -> None:
        self._product, self._predicted, self._keep = (torch.empty_like(like) for _ in range(3))
        self._inverses = Inverses(like)

    def __call__(self, j: Tensor, q: Tensor, gain: Tensor) -> Tensor:
        """`G_t`, in memory that the next step takes; `gain`, `K_{t-1}`, becomes `K_t`."""
        predicted = self._predicted
        torch.bmm(torch.bmm(j, gain, out=self._product), j.mT, out=predicted)
        predicted.diagonal(dim1=-2, dim2=-1).add_(q)
        self._inverses(predicted, self._keep)
        torch.bmm(predicted, self._keep, out=gain)
        return self._keep


def filtered(j: Tensor, r: Tensor, q: Tensor, gain: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates of `n` steps of `m` sequences.

    Args:
        j: the matrices `J_t`, `(n, m, D, D)`; zero where an estimate shall not depend on the one before.
        r: `r_t`, `(n, m, D)`.
        q: the weight of the observations, `(n, m, 1)`.
        gain: `K` before the first step, `(m, D, D)`.
        before: the estimate before the first step, `(m, D)`.

    Returns:
        `d_t`, `(n, m, D)`, and `K` after the last step, or after the zeros that fill up its block.
    """
    n, mates, width = r.shape
    length = min(BLOCK, n)
    blocks = -(-n // length)
    js, rs, qs = (_by_blocks(x, blocks, length) for x in (j, r, q))
    step = Stepper(js[0])
    gains = gain
    if blocks > 1:
        maps = block_maps(js, qs, mates, step)
        gains = gains_before(maps, gain.unsqueeze(0), Matrices()).flatten(0, 1)
    gains = gains.clone()
    estimates = _within_blocks(js, rs, qs, gains, step).unflatten(1, (blocks, mates))
    through, own = estimates[..., :width], estimates[..., width]
    at_ends = linear_scan(Dense(through[-1].contiguous()), own[-1].contiguous(), before)
    starts = torch.cat([before.unsqueeze(0), at_ends[:-1]])
    d = torch.matmul(through, starts.unsqueeze(-1)).squeeze(-1).add_(own)
    return d.transpose(0, 1).flatten(0, 1)[:n], gains.unflatten(0, (blocks, mates))[-1]


def block_maps(js: Tensor, qs: Tensor, mates: int, step: Stepper) -> Maps:
    """The maps of all blocks but the last, `(blocks - 1, m, D, D)`, their steps composed one by one."""
    gain, e, ahead = torch.zeros_like(js[0]), torch.zeros_like(js[0]), torch.empty_like(js[0])
    a = torch.eye(js.shape[-1], dtype=js.dtype, device=js.device).expand_as(js[0]).contiguous()
    for j, q in zip(js, qs, strict=True):
        keep = step(j, q, gain)
        torch.bmm(j, a, out=ahead)
        torch.bmm(keep, ahead, out=a)
        e.baddbmm_(ahead.mT, a)
    return Maps(*(x.unflatten(0, (-1, mates))[:-1] for x in (a, gain, e)))


def _within_blocks(js: Tensor, rs: Tensor, qs: Tensor, gains: Tensor, step: Stepper) -> Tensor:
    """`P_t` and, as one more column, `S_t` of all steps; `gains` end as those after the blocks."""
    length, m, width, _ = js.shape
    found = js.new_empty(length, m, width, width + 1)
    ahead, before = torch.empty_like(found[0]), torch.eye(width, width + 1, dtype=js.dtype, device=js.device)
    before = before.expand_as(ahead).contiguous()
    for j, r, q, after in zip(js, rs, qs, found, strict=True):
        keep = step(j, q, gains)
        torch.bmm(j, before, out=ahead)
        ahead[..., width] += r
        before = torch.bmm(keep, ahead, out=after)
    return found


def _by_blocks(x: Tensor, blocks: int, length: int) -> Tensor:
    """The first rows of all blocks, then the second ones ..., `(length, blocks * m, ...)`; zeros fill up the last."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (blocks, length)).transpose(0, 1).contiguous().flatten(1, 2)
