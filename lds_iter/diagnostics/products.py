"""Long products of matrices, parallel over time, that neither overflow nor underflow.

A product of `T` Jacobians grows like `e^(lT)`: at T = 1e5 it leaves every floating-point format. So a factor is kept as
a matrix of largest entry 1 and the logarithm of its scale; both compose associatively, and a tree of depth log T
multiplies them all. What decays relative to the rest is lost in such a product, which is right for the largest growth
and wrong for the whole spectrum.

The spectrum comes from frames, `Q_t R_t = J_t Q_{t-1}` with `Q_t` orthonormal and the diagonal of `R_t` positive
(Benettin, Galgani, Giorgilli, Strelcyn 1980). `Q_t` is the state of a recurrence, so what this library does applies to
it: cut time into chunks, guess the frame at the start of each (here by pushing one frame through the chunks' products),
run all chunks side by side, hand each one's last frame to the next, and repeat where a start has changed. The first
chunk is right at once, so as many rounds as chunks always suffice; two are the rule, because frames forget their past
where the exponents differ, and where they do not the product of a chunk is well conditioned and the guess is right.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAME_FRAME = 1e-10
"""Frames that differ by less, in any entry, count as equal: the error it leaves in an exponent is of that order."""


def product(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`M_n ... M_2 M_1` along the first dimension.

    Args:
        matrices: `(n, *batch, D, D)`, in order of time.

    Returns:
        A matrix of largest entry 1 (or zero), `(*batch, D, D)`, and the logarithm of what it is to be multiplied by,
        `(*batch)`.
    """
    matrices, scales = _rescaled(matrices, matrices.new_zeros(matrices.shape[:-2]))
    while matrices.shape[0] > 1:
        n = matrices.shape[0]
        pairs = matrices[1::2] @ matrices[: n - 1 : 2]
        pairs, sums = _rescaled(pairs, scales[1::2] + scales[: n - 1 : 2])
        odd = n % 2
        matrices, scales = torch.cat([pairs, matrices[n - odd :]]), torch.cat([sums, scales[n - odd :]])
    return matrices[0], scales[0]


def _rescaled(matrices: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    size = matrices.abs().amax((-2, -1))
    return matrices / torch.where(size > 0, size, 1)[..., None, None], scales + size.log()


def orthonormal(frame: Tensor) -> tuple[Tensor, Tensor]:
    """The frame made orthonormal without changing what its first columns span, and the logarithms of the lengths that
    were taken out, `(*batch, D, k)` and `(*batch, k)`."""
    q, r = torch.linalg.qr(frame)
    lengths = r.diagonal(dim1=-2, dim2=-1)
    return q * torch.where(lengths < 0, -1, 1).to(q.dtype).unsqueeze(-2), lengths.abs().log()


def push_vector(matrices: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """One direction through all matrices, by their product. Arguments and results as `push_frame`, with k = 1."""
    matrix, scale = product(matrices)
    frame, growth = orthonormal(matrix @ frame)
    return frame, growth + scale.unsqueeze(-1)


def push_frame(matrices: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """A frame through all matrices, chunks of time side by side.

    Args:
        matrices: `(n, *batch, D, D)`.
        frame: orthonormal columns, `(*batch, D, k)`.

    Returns:
        The frame after the last step, and the logarithms of how each direction grew, `(*batch, k)`.
    """
    chunks = _chunked(matrices)
    starts, ends = _guessed_starts(chunks, frame), frame.new_empty(0)
    growth = frame.new_empty(0)
    todo = torch.arange(chunks.shape[0], device=frame.device)
    while todo.numel():
        moved, grown = _run(chunks[todo], starts[todo])
        if todo.numel() == chunks.shape[0]:
            ends, growth = moved, grown
        else:
            ends[todo], growth[todo] = moved, grown
        # A column's sign means nothing, but would run through all the chunks behind it like a change of direction.
        facing = torch.where((starts[1:] * ends[:-1]).sum(-2, keepdim=True) < 0, -1, 1)
        gap = (starts[1:] - facing * ends[:-1]).abs().flatten(1).amax(1)
        stale = (gap > SAME_FRAME).nonzero().flatten()
        starts[stale + 1] = ends[stale]
        # The chunk behind the first stale start is exact now; it never runs again, so this ends.
        todo = stale + 1
    return ends[-1], growth.sum(0)


def _chunked(matrices: Tensor) -> Tensor:
    """`(chunks, steps, *batch, D, D)`, about as many chunks as steps, filled up with identities."""
    n, width = matrices.shape[0], matrices.shape[-1]
    steps = max(1, round(n**0.5))
    missing = -n % steps
    if missing:
        eye = torch.eye(width, dtype=matrices.dtype, device=matrices.device).expand(missing, *matrices.shape[1:])
        matrices = torch.cat([matrices, eye])
    return matrices.unflatten(0, (-1, steps))


def _guessed_starts(chunks: Tensor, frame: Tensor) -> Tensor:
    matrices, _ = product(chunks.movedim(1, 0))  # one for each chunk
    starts = [frame]
    for matrix in matrices[:-1]:
        starts.append(orthonormal(matrix @ starts[-1])[0])
    return torch.stack(starts)


def _run(chunks: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Every chunk step by step, all chunks at once."""
    growth = frames.new_zeros(frames.shape[:-2] + frames.shape[-1:])
    for step in range(chunks.shape[1]):
        frames, lengths = orthonormal(chunks[:, step] @ frames)
        growth = growth + lengths
    return frames, growth


def random_frame(like: Tensor, count: int, seed: int) -> Tensor:
    """`count` orthonormal directions for each sequence, the same for every batch element, in float64.

    Args:
        like: a state, `(*batch, D)`.
    """
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(like.shape[-1], count, generator=generator, dtype=torch.float64, device="cpu")
    frame, _ = orthonormal(columns.to(like.device))
    return frame.expand(*like.shape[:-1], *frame.shape).contiguous()
