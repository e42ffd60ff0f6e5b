"""Scans of tensors in main memory, one time step after the other: the work of a loop at the speed of the memory.

The odd-even scans of `lds_iter.linear` pass over memory log T times, and multiply matrices by matrices; on a processor
with a handful of cores it is faster to go through time once, all channels of a step side by side. So a dense scan
costs T D^2 instead of T D^3. The results do not depend on threads, on other batch elements, or on where time is cut.

For each structure there is a scan that says whether it could serve, and one that falls back to torch's operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.plain import kernel_rows, traced
from lds_iter.linear.linear_scan import diagonal_scan, reference_scan, scaled_identity_scan
from lds_iter.linear.registry import register_scan, register_stepwise_scan
from lds_iter.linear.transitions import BlockDiagonal, Dense, Diagonal, ScaledIdentity

LOOP_WIDTH = 32
"""From this width on a loop over time beats the odd-even scan on a CPU without a compiler too: at D = 32 it costs 2.5
microseconds a step instead of 3.3, at D = 64 4.1 instead of 19, at D = 128 7 instead of 94 (one thread, batch 1)."""


@register_stepwise_scan(Diagonal, "cpu")
def stepwise_diagonal_scan(transition: Diagonal, x: Tensor, initial: Tensor | None) -> bool:
    """`scan.cpp`; reference: `diagonal_scan`."""
    a = transition.diagonal
    found = kernel_rows(a, x, initial)
    scan = None if found is None else function("scan", "diagonal_scan", x.dtype, 8)
    if scan is None or found is None:
        return False
    x_row, initial, a_row = found
    if a_row is None or a.shape != x.shape:
        a = a.expand(x.shape).contiguous()
        a_row = a.numel() // a.shape[0]
    width = x.numel() // x.shape[0]
    scan(a.data_ptr(), x.data_ptr(), _address(initial), x.shape[0], width, a_row, x_row, torch.get_num_threads())
    return True


@register_scan(Diagonal, "cpu")
def fast_diagonal_scan(transition: Diagonal, x: Tensor, initial: Tensor | None = None) -> None:
    """Step by step where the compiled scan serves; reference: `diagonal_scan`."""
    if not stepwise_diagonal_scan(transition, x, initial):
        diagonal_scan(transition, x, initial)


@register_stepwise_scan(ScaledIdentity, "cpu")
def stepwise_scaled_identity_scan(transition: ScaledIdentity, x: Tensor, initial: Tensor | None) -> bool:
    """`scan.cpp`; reference: `scaled_identity_scan`."""
    scale = transition.scale
    if not isinstance(scale, Tensor):
        scale = x.new_full((1,) * x.ndim, scale)
    found = kernel_rows(scale, x, initial)
    scan = None if found is None else function("scan", "scaled_scan", x.dtype, 10)
    if scan is None or found is None:
        return False
    x_row, initial, _ = found
    groups, width = x[0, ..., 0].numel(), x.shape[-1]
    scale = scale.expand(*x.shape[:-1], 1).reshape(x.shape[0], groups)
    scan(
        scale.data_ptr(), x.data_ptr(), _address(initial), x.shape[0], groups, width, *scale.stride(), x_row,
        torch.get_num_threads(),
    )  # fmt: skip
    return True


@register_scan(ScaledIdentity, "cpu")
def fast_scaled_identity_scan(transition: ScaledIdentity, x: Tensor, initial: Tensor | None = None) -> None:
    """Step by step where the compiled scan serves; reference: `scaled_identity_scan`."""
    if not stepwise_scaled_identity_scan(transition, x, initial):
        scaled_identity_scan(transition, x, initial)


@register_stepwise_scan(Dense, "cpu")
def stepwise_dense_scan(transition: Dense, x: Tensor, initial: Tensor | None) -> bool:
    """`scan.cpp`; reference: `reference_scan`."""
    return _matrices(transition.matrix, x, initial)


@register_scan(Dense, "cpu")
def fast_dense_scan(transition: Dense, x: Tensor, initial: Tensor | None = None) -> None:
    """Step by step where the compiled scan serves, else a loop over time for wide matrices; reference:
    `reference_scan`."""
    if _matrices(transition.matrix, x, initial):
        return
    if x.shape[-1] >= LOOP_WIDTH and not traced():
        _loop(transition.matrix, x, initial)
    else:
        reference_scan(transition, x, initial)


@register_stepwise_scan(BlockDiagonal, "cpu")
def stepwise_block_diagonal_scan(transition: BlockDiagonal, x: Tensor, initial: Tensor | None) -> bool:
    """`scan.cpp`; reference: `reference_scan`."""
    return _matrices(transition.blocks, x, initial)


@register_scan(BlockDiagonal, "cpu")
def fast_block_diagonal_scan(transition: BlockDiagonal, x: Tensor, initial: Tensor | None = None) -> None:
    """Step by step where the compiled scan serves; reference: `reference_scan`."""
    if not _matrices(transition.blocks, x, initial):
        reference_scan(transition, x, initial)


def _loop(a: Tensor, x: Tensor, initial: Tensor | None) -> None:
    """One product at a time, in place; batch elements side by side."""
    n, width = x.shape[0], x.shape[-1]
    rows = x.unsqueeze(-1).flatten(1, -3) if x.ndim > 2 else x.unsqueeze(1).unsqueeze(-1)
    matrices = a.expand(*x.shape[:-1], width, width).reshape(n, -1, width, width)
    before = None if initial is None else initial.expand(x.shape[1:]).reshape(-1, width, 1)
    done = rows.contiguous()  # x itself, unless its rows lie apart
    for matrix, row in zip(matrices.unbind(0), done.unbind(0), strict=True):
        if before is not None:
            row.baddbmm_(matrix, before)
        before = row
    if done.data_ptr() != x.data_ptr():
        x.copy_(done.view(x.shape))


def _matrices(a: Tensor, x: Tensor, initial: Tensor | None) -> bool:
    """Scan by the matrices in the last two dimensions of `a`; false where the kernel cannot."""
    matrices = a.shape[-3] if a.ndim == x.ndim + 2 else 1
    if a.shape[-2] != a.shape[-1] or a.shape[-1] * matrices != x.shape[-1]:
        return False  # the reference says what is wrong
    found = kernel_rows(a, x, initial)
    scan = None if found is None else function("scan", "dense_scan", x.dtype, 12)
    if scan is None or found is None:
        return False
    x_row, initial, _ = found
    n, width = x.shape[0], a.shape[-1]
    count = x.numel() // (n * width)
    a = a.expand(*x.shape[:-1], *a.shape[-2:]) if a.ndim == x.ndim + 1 else a
    a = a.reshape(n, count, width, width)
    if width > 4 and a.stride(-1) != 1:
        a = a.contiguous()  # one way of summing for every layout: the layout may differ with the batch
    scan(
        a.data_ptr(), x.data_ptr(), _address(initial), n, count, width, *a.stride(), x_row, torch.get_num_threads()
    )  # fmt: skip
    return True


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
