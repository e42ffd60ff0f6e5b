"""The Triton scans as custom operations, and their registration for CUDA devices.

Triton is imported when a kernel first runs, so the package needs none; where it is missing, the scans are those of
`lds_iter.linear`. As custom operations the kernels are single nodes for `torch.compile`. They are never differentiated:
the gradient of a scan is a scan (see `lds_iter.linear`), which runs them again, backwards.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from lds_iter.linear import linear_scan as scan
from lds_iter.linear.linear_scan import reference_scan
from lds_iter.linear.registry import register_reverse_scan, register_scan
from lds_iter.linear.transitions import (
    AbstractTransition,
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    ScaledIdentity,
    leaves,
    map_leaves,
)

TRITON = importlib.util.find_spec("triton") is not None
"""Whether there is anything here to use."""

SMALL_BLOCK = 4
"""The largest blocks of `block_scan_`; larger ones are for `dense_scan_`."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@torch.library.custom_op("lds_iter::block_scan_", mutates_args=("x",))
def block_scan_(a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    """Scan in place on blocks of 1 to 4; reference: `reference_scan`.

    Args:
        a: `(n, *batch, D // K, K, K)`.
        x: on entry b, on return the solution, `(n, *batch, D)`.
        initial: `(*batch, D)`, or None.
        reverse: backwards in time.
    """
    from lds_iter.kernels.triton.scans import block_scan, single_pass

    if single_pass.serves(a, x):
        return _run(single_pass.scan_, a, 3, x, initial, reverse)
    scan_ = functools.partial(block_scan.scan_, length=block_scan.LENGTH, tile=block_scan.TILE)
    return _run(scan_, a, 3, x, initial, reverse)


@torch.library.custom_op("lds_iter::dense_scan_", mutates_args=("x",))
def dense_scan_(a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    """Scan in place on full matrices; reference: `reference_scan`.

    Args:
        a: `(n, *batch, D, D)`.
        x: on entry b, on return the solution, `(n, *batch, D)`.
        initial: `(*batch, D)`, or None.
        reverse: backwards in time.
    """
    from lds_iter.kernels.triton.scans import dense_scan

    _run(functools.partial(dense_scan.scan_, length=dense_scan.LENGTH), a, 2, x, initial, reverse)


def _run(
    scan_: Callable[..., None], a: Tensor, trailing: int, x: Tensor, initial: Tensor | None, reverse: bool
) -> None:
    """A kernel in place, whatever the batch dimensions and strides; `trailing`: the dimensions of `a` of a matrix."""
    if x.numel() == 0:
        return
    rows, start = _rows(x, 1), _start(initial, x.shape[-1])
    with torch.cuda.device_of(x):
        scan_(_rows(a, trailing), rows, start, reverse)
    _return(rows, x)


@block_scan_.register_fake
@dense_scan_.register_fake
def _(a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    return None


def _rows(x: Tensor, last: int) -> Tensor:
    """`x` with its batch dimensions as one, `(n, B, ...)`: a view where the strides allow it, else a copy.

    Args:
        last: how many dimensions come after the batch.
    """
    return x.reshape(x.shape[0], -1, *x.shape[x.ndim - last :])


def _start(initial: Tensor | None, width: int) -> Tensor | None:
    return None if initial is None else initial.reshape(-1, width)


def _return(rows: Tensor, x: Tensor) -> None:
    """Put back what was computed in a copy."""
    if rows.data_ptr() != x.data_ptr():
        x.copy_(rows.view_as(x))


WIDEST = 64
"""The widest matrices of `dense_scan`; half of it in float64."""


def served(transition: AbstractTransition, x: Tensor) -> bool:
    """Whether there is a kernel for this scan: the structures of this file, in real floating point, with Triton."""
    numbers = [x, *leaves(transition)]
    if not TRITON or any(tensor.dtype not in DTYPES for tensor in numbers):
        return False
    match transition:
        case Dense(matrices) | BlockDiagonal(matrices):
            double = any(tensor.dtype == torch.float64 for tensor in numbers)
            return matrices.shape[-1] <= (WIDEST // 2 if double else WIDEST)
        case _:
            return isinstance(transition, Diagonal | ScaledIdentity | Identity)


@register_scan(Identity, "cuda")
@register_scan(ScaledIdentity, "cuda")
@register_scan(Diagonal, "cuda")
@register_scan(BlockDiagonal, "cuda")
@register_scan(Dense, "cuda")
def triton_scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None = None) -> None:
    """Every structure that has a kernel, on CUDA; reference: `reference_scan`."""
    if served(transition, x):
        _scan(transition, x, initial, False)
    else:
        _PLAIN.get(type(transition), reference_scan)(transition, x, initial)


@register_reverse_scan(Identity, "cuda")
@register_reverse_scan(ScaledIdentity, "cuda")
@register_reverse_scan(Diagonal, "cuda")
@register_reverse_scan(BlockDiagonal, "cuda")
@register_reverse_scan(Dense, "cuda")
def triton_reverse_scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None = None) -> None:
    """The same backwards in time; reference: `reference_scan` of flipped rows."""
    if served(transition, x):
        _scan(transition, x, initial, True)
    else:
        flipped = x.flip(0)
        triton_scan(map_leaves(lambda leaf: leaf.flip(0), transition), flipped, initial)
        x.copy_(flipped.flip(0))


def _scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    """By the kernel for it. Numbers that repeat are not copied, but have a stride of zero."""
    match transition:
        case Dense(matrices):
            blocks = matrices.expand(*x.shape[:-1], -1, -1).unsqueeze(-3)
        case BlockDiagonal(blocks):
            blocks = blocks.expand(*x.shape[:-1], *blocks.shape[-3:])
        case Diagonal(factor) | ScaledIdentity(factor):
            factor = factor if isinstance(factor, Tensor) else x.new_full((), factor)
            blocks = factor.expand_as(x).unsqueeze(-1).unsqueeze(-1)
        case _:
            blocks = x.new_ones(()).expand_as(x).unsqueeze(-1).unsqueeze(-1)
    size = blocks.shape[-1]
    if size <= SMALL_BLOCK:
        block_scan_(blocks, x, initial, reverse)
    else:
        start = None if initial is None else initial.unflatten(-1, (-1, size))
        dense_scan_(blocks, x.unflatten(-1, (-1, size)), start, reverse)


_PLAIN = {
    Diagonal: scan.diagonal_scan,
    ScaledIdentity: scan.scaled_identity_scan,
    Identity: scan.identity_scan,
}
"""What scans on devices without a kernel of their own."""
