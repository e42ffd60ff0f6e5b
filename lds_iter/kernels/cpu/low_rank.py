"""The scan of `diag(d) + U V^T` in main memory, one time step after the other: no matrix is made, T D r work."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.plain import kernel_rows, plain
from lds_iter.linear.low_rank import LowRank, check_low_rank, low_rank_scan
from lds_iter.linear.registry import register_scan, register_stepwise_scan


@register_stepwise_scan(LowRank, "cpu")
def stepwise_low_rank_scan(transition: LowRank, x: Tensor, initial: Tensor | None) -> bool:
    """`low_rank.cpp`; reference: `low_rank_scan`."""
    check_low_rank(transition, x)
    found = kernel_rows(transition.diagonal, x, initial)
    if found is None or not plain(transition.u, transition.v, dtype=x.dtype):
        return False
    scan = function("low_rank", "low_rank_scan", x.dtype, 11)
    if scan is None:
        return False
    x_row, initial, _ = found
    n, width, rank = x.shape[0], x.shape[-1], transition.rank
    d = transition.diagonal.expand(x.shape).contiguous()
    u, v = (leaf.mT.expand(*x.shape[:-1], rank, width).contiguous() for leaf in (transition.u, transition.v))
    count = x.numel() // (n * width)
    scan(
        d.data_ptr(), u.data_ptr(), v.data_ptr(), x.data_ptr(), 0 if initial is None else initial.data_ptr(), n, count,
        width, rank, x_row, torch.get_num_threads(),
    )  # fmt: skip
    return True


@register_scan(LowRank, "cpu")
def fast_low_rank_scan(transition: LowRank, x: Tensor, initial: Tensor | None = None) -> None:
    """Step by step where the compiled scan serves; reference: `low_rank_scan`."""
    if not stepwise_low_rank_scan(transition, x, initial):
        low_rank_scan(transition, x, initial)
