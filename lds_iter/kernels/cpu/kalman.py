"""Kalman's filter and smoother for tensors in main memory, one time step after the other: `kalman.cpp`.

Reference: the parallel scans of `lds_iter.methods.kalman_filter` and `kalman_scan`. A step of D x D matrices is three
products and reads its Jacobian once; the smoother keeps the gains of all rows, at most as many numbers as the Jacobians
have, up to `KEPT`. No result depends, to the bit, on the batch, windows, threads or `KEPT`. Functions return None
where the reference must serve.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.plain import plain, row_stride, traced
from lds_iter.linear.transitions import BlockDiagonal, Dense, Diagonal

KEPT = 1 << 28
"""Bytes of gains that the smoother keeps per thread; over earlier rows it runs the filter twice."""

Structure = Dense | BlockDiagonal | Diagonal


def filtered(transition: Structure, r: Tensor, q: Tensor, free: Tensor) -> Tensor | None:
    """The estimates of `d_t = J_t d_{t-1} + r_t + w_t`, observed as 0, from the rows up to t each.

    Args:
        transition: the matrices `J_t` of `n` steps.
        r: `(n, *batch, D)`.
        q: the weight of the observation, that of `w_t` being 1; `(*batch)` or `()`, or, one per row, `(n, *batch)`,
            but then not where the structure is diagonal. Where it is 0, nothing is damped; so in all rows of a
            sequence or in none.
        free: bool, `(n, *batch, 1)`; false where `d_t = r_t` exactly.

    Returns:
        `(n, *batch, D)`.
    """
    return _estimates(transition, r, q, free, back=False)


def smoothed(transition: Structure, r: Tensor, q: Tensor, free: Tensor) -> Tensor | None:
    """The same from all rows; `J_t` counts as 0 where row t is not free."""
    return _estimates(transition, r, q, free, back=True)


def _estimates(transition: Structure, r: Tensor, q: Tensor, free: Tensor, *, back: bool) -> Tensor | None:
    (j,) = vars(transition).values()
    if traced() or torch.is_grad_enabled() or r.numel() == 0 or not plain(j, r, q, dtype=r.dtype):
        return None
    if not plain(free, dtype=torch.bool):
        return None
    per_row = q.ndim == r.ndim - 1
    r, free = r.contiguous(), free.contiguous()
    q = q.expand(r.shape[0 if per_row else 1 : -1]).reshape(r.shape[0] if per_row else 1, -1).contiguous()
    if isinstance(transition, Dense) and r.shape[-1] == 1:
        j = j.squeeze(-1)
    elif not isinstance(transition, Diagonal):
        return _by_matrices(j, r, q, free, back=back)
    return None if per_row else _by_numbers(j, r, q, free, back=back)


def _by_numbers(j: Tensor, r: Tensor, q: Tensor, free: Tensor, *, back: bool) -> Tensor | None:
    run = function("kalman", "diagonal", r.dtype, 11)
    if run is None:
        return None
    j_row = row_stride(j) if j.shape == r.shape else None
    if j_row is None:
        j = j.expand(r.shape).contiguous()
        j_row = j.numel() // j.shape[0]
    d, predicted = torch.empty_like(r), torch.empty_like(r) if back else None
    run(
        *_addresses(j, r, q, free, d, predicted), r.shape[0], q.numel(), r.shape[-1], j_row, torch.get_num_threads()
    )  # fmt: skip
    return d


def _by_matrices(j: Tensor, r: Tensor, q: Tensor, free: Tensor, *, back: bool) -> Tensor | None:
    run = function("kalman", "matrices", r.dtype, 17)
    if run is None:
        return None
    n, width = r.shape[0], j.shape[-1]
    count = r.numel() // (n * width)
    j = j.expand(*r.shape[:-1], *j.shape[-2:]) if j.ndim == r.ndim + 1 else j
    j, d = j.reshape(n, count, width, width), torch.empty_like(r)
    rows, mates = q.shape
    run(
        *_addresses(j, r, q, free, d), n, count, count // mates, width, *j.stride(), mates if rows > 1 else 0, back,
        KEPT, torch.get_num_threads(),
    )  # fmt: skip
    return d


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
