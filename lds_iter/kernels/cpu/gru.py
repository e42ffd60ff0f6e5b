"""The compiled step, diagonal iteration and derivatives of `lds_iter.nn.GRURecurrence`: `gru.cpp`.

Reference: the plain torch operations of `lds_iter.nn.gru` and, for the iteration, the loop in `lds_iter.sweep`. Functions
return None where those must serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.plain import plain, traced

WIDEST = 256
"""Beyond this width the weights of one vector of channels leave the first-level cache, and a matrix library wins."""

Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Moved:
    """One diagonal iteration: what `lds_iter.sweep.Sweep` wants to know."""

    lo: Tensor
    residual: Tensor
    excess: Tensor
    accepted: Tensor


def step(h: Tensor, u: Triple, weights: Triple, bias: Tensor, *, diagonal: bool) -> tuple[Tensor, Tensor | None] | None:
    """The value and the diagonal of the Jacobian, in one pass over memory.

    Args:
        h: the previous states, `(n, *batch, D)`.
        u: what the inputs contribute to the gates, the same shape each.
        weights: W_r, W_z, W_n, `(D, D)` each.
        bias: b_n, `(D)`.
        diagonal: whether to compute the diagonal too.
    """
    if not _serves(h, u, weights, bias):
        return None
    run = function("gru", "step", h.dtype, 13)
    if run is None:
        return None
    value, slope, width = torch.empty_like(h), torch.empty_like(h) if diagonal else None, h.shape[-1]
    run(
        h.data_ptr(), *_addresses(u), *_addresses(weights), bias.data_ptr(), value.data_ptr(),
        0 if slope is None else slope.data_ptr(), h.numel() // width, width, torch.get_num_threads(),
    )  # fmt: skip
    return value, slope


def sweep(
    buffer: Tensor,
    spare: Tensor,
    u: Triple,
    weights: Triple,
    bias: Tensor,
    *,
    start: int,
    lo: Tensor,
    hi: Tensor,
    rtol: float,
    atol: float,
) -> Moved | None:
    """One iteration of `QuasiNewton()` from `buffer` into `spare`; None also where a proposal is not finite.

    Args:
        buffer: the state before each row at hand and, last, the one after them, `(n + 1, *batch, D)`.
        spare: of the same shape; takes the proposals, from its second row on.
        u: see `step`; the rows at hand.
        weights: see `step`.
        bias: see `step`.
        start: the time of the first row at hand.
        lo: the first row of each sequence that is not accepted yet, `(*batch)`.
        hi: the time after the last row of each that may move, `(*batch)`.
        rtol: of the stopping rule.
        atol: of the stopping rule.
    """
    prev = buffer[:-1]
    if not _serves(prev, u, weights, bias) or not plain(spare, dtype=prev.dtype) or not spare.is_contiguous():
        return None
    run = function("gru", "sweep", prev.dtype, 20, 2)
    if run is None:
        return None
    n, width = prev.shape[0], prev.shape[-1]
    d, largest, excess = prev.new_zeros(3, *prev.shape[1:])
    lo, hi, accepted = lo.clone(), hi.contiguous(), prev.new_zeros(lo.shape)
    excess.fill_(-torch.inf)
    flawed = run(
        *_addresses(u), *_addresses(weights), bias.data_ptr(), prev.data_ptr(), spare[1:].data_ptr(), d.data_ptr(),
        largest.data_ptr(), excess.data_ptr(), accepted.data_ptr(), lo.data_ptr(), hi.data_ptr(), start, n,
        lo.numel(), width, torch.get_num_threads(), rtol, atol,
    )  # fmt: skip
    return None if flawed else Moved(lo, largest.amax(-1), excess.amax(-1).clamp(min=0), accepted)


def _serves(h: Tensor, u: Triple, weights: Triple, bias: Tensor) -> bool:
    tensors = (h, *u, *weights, bias)
    return (
        not traced()
        and plain(*tensors, dtype=h.dtype)
        and all(tensor.is_contiguous() for tensor in tensors)
        and all(tensor.shape == h.shape for tensor in u)
        and h.numel() > 0
        and h.shape[-1] <= WIDEST
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def _addresses(tensors: Triple) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)
