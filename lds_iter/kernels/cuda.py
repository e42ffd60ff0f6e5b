"""The Triton kernels as custom operations, and the scans that they replace on CUDA devices.

Triton is imported when a kernel first runs, so the package needs none; where it is missing, the scans are those of
`lds_iter.scan`. As custom operations the kernels are single nodes for `torch.compile`. They are never differentiated:
the gradient of a scan is a scan (see `lds_iter.scan`), which runs them again, backwards.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from lds_iter import scan
from lds_iter.scan import SMALL_BLOCK, reference_scan, register_reverse_scan, register_scan
from lds_iter.transitions import AbstractTransition, BlockDiagonal, Diagonal, Identity, ScaledIdentity, map_leaves

TRITON = importlib.util.find_spec("triton") is not None
"""Whether there is anything here to use."""

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
    from lds_iter.kernels import block_scan

    if x.numel() == 0:
        return
    rows, blocks = _rows(x, 1), _rows(a, 3)
    with torch.cuda.device_of(x):
        block_scan.scan_(
            blocks, rows, None if initial is None else initial.reshape(-1, x.shape[-1]), reverse,
            length=block_scan.LENGTH, tile=block_scan.TILE,
        )  # fmt: skip
    _return(rows, x)


@block_scan_.register_fake
def _(a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    return None


def _rows(x: Tensor, last: int) -> Tensor:
    """`x` with its batch dimensions as one, `(n, B, ...)`: a view where the strides allow it, else a copy.

    Args:
        last: how many dimensions come after the batch.
    """
    return x.reshape(x.shape[0], -1, *x.shape[x.ndim - last :])


def _return(rows: Tensor, x: Tensor) -> None:
    """Put back what was computed in a copy."""
    if rows.data_ptr() != x.data_ptr():
        x.copy_(rows.view_as(x))


def served(transition: AbstractTransition, x: Tensor) -> bool:
    """Whether there is a kernel for this scan: the structures of this file, in real floating point, with Triton."""
    if not TRITON or x.dtype not in DTYPES:
        return False
    match transition:
        case Diagonal(leaf) | BlockDiagonal(leaf):
            small = leaf.shape[-1] <= SMALL_BLOCK or isinstance(transition, Diagonal)
            return small and leaf.dtype in DTYPES
        case ScaledIdentity(scale):
            return not isinstance(scale, Tensor) or scale.dtype in DTYPES
        case _:
            return isinstance(transition, Identity)


def _blocks(transition: AbstractTransition, x: Tensor) -> Tensor:
    """The transition as blocks; numbers that repeat are not copied, but have a stride of zero."""
    match transition:
        case BlockDiagonal(blocks):
            return blocks.expand(*x.shape[:-1], *blocks.shape[-3:])
        case Diagonal(diagonal):
            factor = diagonal
        case ScaledIdentity(scale) if isinstance(scale, Tensor):
            factor = scale
        case ScaledIdentity(scale):
            factor = x.new_full((), float(scale))
        case _:
            factor = x.new_ones(())
    return factor.expand_as(x).unsqueeze(-1).unsqueeze(-1)


@register_scan(Identity, "cuda")
@register_scan(ScaledIdentity, "cuda")
@register_scan(Diagonal, "cuda")
@register_scan(BlockDiagonal, "cuda")
def small_scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None = None) -> None:
    """Diagonals, their special cases and small blocks on CUDA; reference: `reference_scan`."""
    if served(transition, x):
        block_scan_(_blocks(transition, x), x, initial, False)
    else:
        _PLAIN.get(type(transition), reference_scan)(transition, x, initial)


@register_reverse_scan(Identity, "cuda")
@register_reverse_scan(ScaledIdentity, "cuda")
@register_reverse_scan(Diagonal, "cuda")
@register_reverse_scan(BlockDiagonal, "cuda")
def small_reverse_scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None = None) -> None:
    """The same backwards in time; reference: `reference_scan` of flipped rows."""
    if served(transition, x):
        block_scan_(_blocks(transition, x), x, initial, True)
    else:
        flipped = x.flip(0)
        small_scan(map_leaves(lambda leaf: leaf.flip(0), transition), flipped, initial)
        x.copy_(flipped.flip(0))


_PLAIN = {
    Diagonal: scan.diagonal_scan,
    ScaledIdentity: scan.scaled_identity_scan,
    Identity: scan.identity_scan,
}
"""What scans on devices without a kernel of their own."""
