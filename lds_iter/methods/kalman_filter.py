"""The estimates of a Kalman filter with full matrices, without gradients: `kalman_scan` in memory that is used again.

A step of all blocks makes half a dozen tensors of the size of its Jacobians. Freshly allocated they cost more than the
products that fill them, so here each has its place. And the affine recursion of the estimates runs along with that of
the gains, inside all blocks at once,

    d_t = S_t + P_t d,    P_t = G_t J_t P_{t-1},    S_t = G_t (J_t S_{t-1} + r_t)

with `d` the estimate before the block, so that nothing but the last rows of the blocks has to be scanned over time.

How the factors of a product lie in memory decides about half of what it costs (`TINY`). So `P`, `S` and the maps are
held transposed, which leaves nothing but `J^T` and symmetric matrices on the right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.methods.inverses import Inverses
from lds_iter.methods.kalman_scan import BLOCK, Maps, Matrices, gains_before
from lds_iter.scan import linear_scan
from lds_iter.transitions import Dense

TINY = 8
"""Below this size a CPU multiplies by a plain loop, fastest where columns of the right factor lie together; from it on
by a library that wants its rows."""


WIDE = 16
"""From this size on blocks are twice as long: steps of fewer blocks still fill their operations."""


class Stepper:
    """Steps of the Riccati recursion for many sequences at once.

    Args:
        like: one tensor of Jacobians of a step, `(m, D, D)`.
    """

    def __init__(self, like: Tensor) -> None:
        self._product, self._predicted, self._keep = (
            torch.empty_like(like, memory_format=torch.contiguous_format) for _ in range(3)
        )
        self._inverses = Inverses(self._keep)

    def __call__(self, j: Tensor, q: Tensor, gain: Tensor) -> Tensor:
        """`G_t`, in memory that the next step takes; `gain`, `K_{t-1}`, becomes `K_t`."""
        predicted = self._predicted
        torch.bmm(torch.bmm(j, on_the_right(gain), out=self._product), j.mT, out=predicted)
        predicted.diagonal(dim1=-2, dim2=-1).add_(q)
        self._inverses(predicted, self._keep)
        keep = on_the_right(self._keep)
        torch.bmm(predicted, keep, out=gain)
        return keep


def on_the_right(symmetric: Tensor) -> Tensor:
    """Or its transpose, which is the same, where that is the better right factor."""
    return symmetric.mT if symmetric.shape[-1] < TINY else symmetric


def filtered(j: Tensor, r: Tensor, q: Tensor, fixed: Tensor, gain: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates of `n` steps of `m` sequences.

    Args:
        j: the matrices `J_t`, `(n, m, D, D)`.
        r: `r_t`, `(n, m, D)`.
        q: the weight of the observations, `(n, m, 1)`.
        fixed: true where `d_t = r_t` exactly, `(n, m, 1)`; there `q` must be 0.
        gain: `K` before the first step, `(m, D, D)`.
        before: the estimate before the first step, `(m, D)`.

    Returns:
        `d_t`, `(n, m, D)`, and `K` after the last step.
    """
    n, mates, width = r.shape
    length = min(BLOCK if width < WIDE else 2 * BLOCK, n)
    blocks = -(-n // length)
    # J^T is a right factor, J a left one, for which both ways of lying in memory are equally good.
    js = by_blocks(j, blocks, length) if width < TINY else by_blocks(j.mT, blocks, length).mT
    rs, qs, still = (by_blocks(x, blocks, length) for x in (r, q, fixed))
    js.masked_fill_(still.unsqueeze(-1), 0)
    step = Stepper(js[0])
    gains = gain
    if blocks > 1:
        maps = block_maps(js, qs, mates, step)
        gains = gains_before(maps, gain.unsqueeze(0), Matrices()).flatten(0, 1)
    found, last = _within_blocks(js, rs, qs, gains.clone(), step, (n - 1) % length, mates)
    found = found.unflatten(1, (blocks, mates))
    through, own = found[..., :width, :].mT, found[..., width, :]
    at_ends = linear_scan(Dense(through[-1].contiguous()), own[-1].contiguous(), before)
    starts = torch.cat([before.unsqueeze(0), at_ends[:-1]])
    d = torch.matmul(through, starts.unsqueeze(-1)).squeeze(-1).add_(own)
    return d.transpose(0, 1).flatten(0, 1)[:n], last


def block_maps(js: Tensor, qs: Tensor, mates: int, step: Stepper) -> Maps:
    """The maps of all blocks but the last, `(blocks - 1, m, D, D)`, their steps composed one by one."""
    a = torch.eye(js.shape[-1], dtype=js.dtype, device=js.device).expand(js.shape[1:]).contiguous()
    gain, e, ahead = torch.zeros_like(a), torch.zeros_like(a), torch.empty_like(a)
    for j, q in zip(js, qs, strict=True):
        keep = step(j, q, gain)
        torch.bmm(a, j.mT, out=ahead)
        torch.bmm(ahead, keep, out=a)
        e.baddbmm_(ahead, a.mT)
    return Maps(*(x.unflatten(0, (-1, mates))[:-1] for x in (a.mT, gain, e)))


def _within_blocks(
    js: Tensor, rs: Tensor, qs: Tensor, gains: Tensor, step: Stepper, final: int, mates: int
) -> tuple[Tensor, Tensor]:
    """`P_t^T` and, as one more row, `S_t` of all steps, and the gains of the last block after its step `final`."""
    length, m, width, _ = js.shape
    found, last = js.new_empty(length, m, width + 1, width), gains[-mates:]
    ahead, before = torch.empty_like(found[0]), torch.eye(width + 1, width, dtype=js.dtype, device=js.device)
    before = before.expand_as(ahead).contiguous()
    for t, (j, r, q, after) in enumerate(zip(js, rs, qs, found, strict=True)):
        keep = step(j, q, gains)
        torch.bmm(before, j.mT, out=ahead)
        ahead[:, width] += r
        before = torch.bmm(ahead, keep, out=after)
        if t == final:  # zeros fill up the block
            last = gains[-mates:].clone()
    return found, last


def by_blocks(x: Tensor, blocks: int, length: int) -> Tensor:
    """The first rows of all blocks, then the second ones ..., `(length, blocks * m, ...)`; zeros fill up the last."""
    missing = blocks * length - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    found = torch.empty(length, blocks, *x.shape[1:], dtype=x.dtype, device=x.device)
    return found.copy_(x.unflatten(0, (blocks, length)).transpose(0, 1)).flatten(1, 2)
