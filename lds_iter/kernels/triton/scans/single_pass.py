# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""The scan `x_t = A_t x_{t-1} + b_t` of diagonals and 2x2 blocks in one launch; reference: `reference_scan`.

Every program reads its chunk of A and b once, into registers, and writes its rows of x:

    walk     each of `SUBS` threads a column through its `ROWS` rows from zero, to their map
    scan     the maps of the threads, and publish the chunk's
    wait     for the maps of the chunks before, and fold them: see `look_back`
    walk     once more, from what the rows before end with, now writing x

Tiles are read and written in the order of memory; that a thread gets neighbouring rows is a change of layout between.
The order of summation in row t depends on t alone, so results do not depend, to the bit, on batch and length.

Nothing is multiplied by the first matrix where there is no initial value, so it may be anything, NaN included.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lds_iter.kernels.triton.scans import look_back
from lds_iter.kernels.triton.scans.look_back import (
    applied,
    before,
    carried,
    last,
    map_product,
    scanned,
    stacked,
    ticket,
    unstacked,
)

ROWS, SUBS = {1: 16, 2: 8}, {1: 32, 2: 32}
"""Rows that a thread walks through, and threads that share a chunk of a column, by the size of a block."""

COLUMNS = {1: 8, 2: 4}
"""Columns of a program at most: 32 bytes of a row of x in float32, a sector of memory. Diagonals in half precision have
twice as many."""


@triton.jit(do_not_specialize=["n", "out_n", "blocks"])
def _scan(
    a, x, out, initial, scratch, n, out_n, columns, blocks,
    a_t, a_b, a_q, a_r, a_k, x_t, x_b, x_d, out_t, out_b, out_d, i_b, i_d,
    ROWS: tl.constexpr, SUBS: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
    GROUP: tl.constexpr, LEVELS: tl.constexpr, COUNTER: tl.constexpr,
    INITIAL: tl.constexpr, FLAT: tl.constexpr, TIGHT: tl.constexpr,
):  # fmt: skip
    LENGTH: tl.constexpr = ROWS * SUBS
    number, tiles = ticket(scratch), tl.cdiv(columns, COLUMNS)
    chunk, first_column = number // tiles, (number % tiles).to(tl.int32) * COLUMNS
    first = chunk * LENGTH
    left = tl.minimum(n - first, LENGTH).to(tl.int32)
    row, column = tl.arange(0, LENGTH), first_column + tl.arange(0, COLUMNS)
    here = column < columns
    inside = (row < left)[:, None, None] & here[None, :, None]
    if FLAT:  # the batch is so many more columns, at even distances
        batch, block = 0 * column, column.to(tl.int64)
    else:
        batch, block = (column // blocks).to(tl.int64), (column % blocks).to(tl.int64)

    entry, side = tl.arange(0, K * K)[None, None, :], tl.arange(0, K)[None, None, :]
    if TIGHT:
        across = (block[None, :, None] * K * K + entry) * a_k
    else:
        across = block[None, :, None] * a_q + (entry // K) * a_r + (entry % K) * a_k
    across += (batch * a_b)[None, :, None]
    unused = -1 if INITIAL else tl.where(chunk == 0, 0, -1)
    used = inside & (row > unused)[:, None, None] & (entry >= 0)
    a_tile = tl.load(a + first * a_t + (row.to(tl.int64) * a_t)[:, None, None] + across, used, other=0.0)
    across = (batch * x_b)[None, :, None] + (block[None, :, None] * K + side) * x_d
    px = x + first * x_t + (row.to(tl.int64) * x_t)[:, None, None] + across
    b_tile = tl.load(px, inside & (side >= 0), other=0.0)
    am = _rows(a_tile.to(tl.float32), SUBS, COLUMNS, ROWS, K * K)
    bm = _rows(b_tile.to(tl.float32), SUBS, COLUMNS, ROWS, K)

    p, y = am[: K * K], bm[:K]
    for r in tl.static_range(1, ROWS):
        y = _moved(am, y, bm, r, K)
        p = map_product(am, p, r * K * K, K)
    p, y = scanned(p, y, K, SUBS, COLUMNS)
    p_own, y_own = last(p, K * K, SUBS), last(y, K, SUBS)
    p, y = before(p, y, K, SUBS, COLUMNS)

    start = ()
    for k in tl.static_range(K):
        if INITIAL:
            at = initial + batch * i_b + (block * K + k) * i_d
            start = start + (tl.load(at, here, other=0.0).to(tl.float32)[None, :],)
        else:
            start = start + (tl.zeros((1, COLUMNS), tl.float32),)
    chunks = tl.cdiv(n, LENGTH).to(tl.int64)
    words = scratch + COUNTER + first_column.to(tl.int64) * PARTS
    start = carried(start, p_own, y_own, words, chunk, chunks, columns, here, K, COLUMNS, PARTS, GROUP, LEVELS)

    y = applied(p, start, y, K)
    walked = ()
    for r in tl.static_range(ROWS):
        y = _moved(am, y, bm, r, K)
        walked = walked + y
    rows = tl.reshape(stacked(walked, 0, SUBS, COLUMNS, ROWS * K), (SUBS, COLUMNS, ROWS, K))
    x_tile = tl.reshape(tl.permute(rows, (0, 2, 1, 3)), (LENGTH, COLUMNS, K))
    tl.debug_barrier()  # where b is held twice, all have read it before one overwrites it with x
    across = (batch * out_b)[None, :, None] + (block[None, :, None] * K + side) * out_d
    px = out + first * out_t + (row.to(tl.int64) * out_t)[:, None, None] + across
    inside = (row < out_n - first)[:, None, None] & here[None, :, None]
    tl.store(px, x_tile.to(x.dtype.element_ty), inside & (side >= 0))


@triton.jit
def _rows(tile, SUBS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr):
    """A tile `(SUBS ROWS, COLUMNS, W)` as a tuple of `ROWS W` tensors `(SUBS, COLUMNS)`, row after row."""
    apart = tl.permute(tl.reshape(tile, (SUBS, ROWS, COLUMNS, W)), (0, 2, 1, 3))
    return unstacked(tl.reshape(apart, (SUBS, COLUMNS, ROWS * W)), SUBS, COLUMNS, ROWS * W)


@triton.jit
def _moved(a, y, b, R: tl.constexpr, K: tl.constexpr):
    """`A_r y + b_r`, as a tuple."""
    out = ()
    for i in tl.static_range(K):
        total = b[R * K + i]
        for k in tl.static_range(K):
            total = tl.fma(a[R * K * K + i * K + k], y[k], total)
        out = out + (total,)
    return out


def serves(a: Tensor, x: Tensor) -> bool:
    """Whether this kernel scans such blocks `(n, B, D // K, K, K)`, or else `block_scan` does, in three launches.

    This is the one place where that is decided. Words of 64 bits do not hold float64 and its flag, and blocks of 3 and
    4 do not fit the registers. Where A and b fit the second-level cache three launches may be as fast: `python -m
    bench.kernels` times both on a device.
    """
    return a.shape[-1] in ROWS and torch.float64 not in (a.dtype, x.dtype)


def scan_(a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool) -> None:
    """Scan in place.

    Args:
        a: the blocks, `(n, B, D // K, K, K)`, K = 1 or 2, any strides; half precision or float32.
        x: on entry b, on return the solution, `(n, B, D)`, any strides. Accumulated in float32.
        initial: `(B, D)`, or None.
        reverse: backwards in time, `x_t = A_t x_{t+1} + b_t`.
    """
    n, batch, blocks, size = a.shape[:4]
    columns, most = batch * blocks, COLUMNS[size] * (4 // x.element_size() if size == 1 else 1)
    wide = min(triton.next_power_of_2(columns), most)
    rows, subs = ROWS[size], SUBS[size]
    chunks, tiles = triton.cdiv(n, rows * subs), triton.cdiv(columns, wide)
    words = look_back.words(chunks, columns, size, look_back.GROUP, look_back.LEVELS)
    scratch = torch.zeros(words, dtype=torch.int64, device=x.device)
    # Backwards is forwards from the last row with the stride of time negated.
    sign, first = (-1, n - 1) if reverse else (1, 0)
    start = x if initial is None else initial
    a_t, a_b, a_q, a_r, a_k = a.stride()
    a_k = a_q if size == 1 else a_k
    strides = sign * x.stride(0), *x.stride()[1:]
    tight = size == 1 or (a_r == size * a_k and a_q == size * size * a_k)
    flat = batch == 1 or all(b == blocks * q for b, q in ((a_b, a_q), *_pairs(x, size), *_pairs(initial, size)))
    _scan[(chunks * tiles,)](
        a[first:], x[first:], x[first:], start, scratch, n, n, columns, blocks, sign * a_t, a_b, a_q, a_r, a_k,
        *strides, *strides, *((0, 0) if initial is None else initial.stride()),
        ROWS=rows, SUBS=subs, K=size, COLUMNS=wide, PARTS=look_back.PARTS[size],
        GROUP=look_back.GROUP, LEVELS=look_back.LEVELS, COUNTER=look_back.COUNTER,
        INITIAL=initial is not None, FLAT=flat, TIGHT=tight, num_warps=max(1, subs * wide // 32),
    )  # fmt: skip


def _pairs(x: Tensor | None, size: int) -> list[tuple[int, int]]:
    """The distances of two sequences and of two blocks of `(..., B, D)`."""
    return [] if x is None else [(x.stride(-2), size * x.stride(-1))]
