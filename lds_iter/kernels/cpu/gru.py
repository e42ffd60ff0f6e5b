"""The compiled step, diagonal iteration and derivatives of `lds_iter.nn.GRURecurrence`: `gru.cpp`.

Reference: the plain torch operations of `lds_iter.nn.gru` and, for the iteration and the adjoint, the loop in
`lds_iter.sweep`. Functions return None where those must serve.
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
    """One iteration: what `lds_iter.sweep.Sweep` wants to know, and whether a proposal is not finite."""

    lo: Tensor
    residual: Tensor
    excess: Tensor
    accepted: Tensor
    flawed: bool


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
        *_addresses(*u, *weights, bias, h, value), 0 if slope is None else slope.data_ptr(), h.numel() // width, width,
        torch.get_num_threads(),
    )  # fmt: skip
    return value, slope


def jacobian(h: Tensor, u: Triple, weights: Triple, bias: Tensor) -> Tensor | None:
    """The Jacobians of the step, `(n, *batch, D, D)`; takes its arguments as `step` does."""
    if not _serves(h, u, weights, bias):
        return None
    run = function("gru", "jacobian", h.dtype, 12)
    if run is None:
        return None
    width = h.shape[-1]
    out = h.new_empty(*h.shape, width)
    run(*_addresses(*u, *weights, bias, h, out), h.numel() // width, width, torch.get_num_threads())
    return out


def serves_with_gradients(h: Tensor, u: Triple, weights: Triple, bias: Tensor) -> bool:
    """Whether `step` and `gradients` would serve, and a gradient is wanted."""
    tensors = (h, *u, *weights, bias)
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        return False
    return _readable(h, u, weights, bias) and function("gru", "gradients", h.dtype, 17) is not None


def gradients(h: Tensor, u: Triple, weights: Triple, bias: Tensor, g: Tensor) -> tuple[Tensor, ...] | None:
    """For the gradient `g` of the value those of u_r, u_z, u_n and q, and `z g`, the direct part of that of `h`."""
    g = g.contiguous() if not traced() else g
    if not _serves(h, u, weights, bias) or not plain(g, dtype=h.dtype):
        return None
    run = function("gru", "gradients", h.dtype, 17)
    if run is None:
        return None
    out, width = [torch.empty_like(h) for _ in range(5)], h.shape[-1]
    run(*_addresses(*u, *weights, bias, h, g, *out), h.numel() // width, width, torch.get_num_threads())
    return tuple(out)


def adjoint(h: Tensor, u: Triple, weights: Triple, bias: Tensor, g: Tensor) -> Tensor | None:
    """All `l_t = g_t + J_{t+1}^T l_{t+1}`, one row after the other, in T D^2 work.

    Args:
        h: the state before each row, `(T, *batch, D)`.
        u: see `step`.
        weights: see `step`.
        bias: see `step`.
        g: `(T, *batch, D)`.
    """
    g = g.contiguous()
    if not _serves(h, u, weights, bias) or not plain(g, dtype=h.dtype):
        return None
    run = function("gru", "adjoint", h.dtype, 14)
    if run is None:
        return None
    out, (n, width) = torch.empty_like(h), (h.shape[0], h.shape[-1])
    run(
        *_addresses(*u, *weights, bias, h, g, out), n, h.numel() // (n * width), width, torch.get_num_threads()
    )  # fmt: skip
    return out


def sweep(
    buffer: Tensor,
    spare: Tensor,
    u: Triple,
    weights: Triple,
    bias: Tensor,
    *,
    full: bool,
    start: int,
    lo: Tensor,
    hi: Tensor,
    rtol: float,
    atol: float,
) -> Moved | None:
    """One iteration of `Newton()` or `QuasiNewton()` from `buffer` into `spare`.

    Args:
        buffer: the state before each row at hand and, last, the one after them, `(n + 1, *batch, D)`.
        spare: of the same shape; takes the proposals, from its second row on.
        u: see `step`; the rows at hand.
        weights: see `step`.
        bias: see `step`.
        full: whether `A_t` is the Jacobian, which is never formed, or its diagonal.
        start: the time of the first row at hand.
        lo: the first row of each sequence that is not accepted yet, `(*batch)`.
        hi: the time after the last row of each that may move, `(*batch)`.
        rtol: of the stopping rule.
        atol: of the stopping rule.
    """
    prev = buffer[:-1]
    if not _serves(prev, u, weights, bias) or not plain(spare, dtype=prev.dtype) or not spare.is_contiguous():
        return None
    run = function("gru", "sweep", prev.dtype, 21, 2)
    if run is None:
        return None
    n, width = prev.shape[0], prev.shape[-1]
    d, largest, excess = prev.new_zeros(3, *prev.shape[1:])
    lo, hi, accepted = lo.clone(memory_format=torch.contiguous_format), hi.contiguous(), prev.new_zeros(lo.shape)
    excess.fill_(-torch.inf)
    flawed = run(
        *_addresses(*u, *weights, bias, prev, spare[1:], d, largest, excess, accepted, lo, hi), start, n,
        lo.numel(), width, full, torch.get_num_threads(), rtol, atol,
    )  # fmt: skip
    return Moved(lo, largest.amax(-1), excess.amax(-1).clamp(min=0), accepted, bool(flawed))


def _serves(h: Tensor, u: Triple, weights: Triple, bias: Tensor) -> bool:
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (h, *u, *weights, bias))
    return not graph and _readable(h, u, weights, bias)


def _readable(h: Tensor, u: Triple, weights: Triple, bias: Tensor) -> bool:
    tensors = (h, *u, *weights, bias)
    return (
        not traced()
        and plain(*tensors, dtype=h.dtype)
        and all(tensor.is_contiguous() for tensor in tensors)
        and all(tensor.shape == h.shape for tensor in u)
        and h.numel() > 0
        and h.shape[-1] <= WIDEST
    )


def _addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
