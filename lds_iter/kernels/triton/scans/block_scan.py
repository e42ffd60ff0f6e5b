# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""The scan `x_t = A_t x_{t-1} + b_t` of diagonals and of blocks of 2 to 4 on a GPU; reference: `reference_scan`.

Reduce, then scan (Merrill and Garland, "Single-pass parallel prefix scan with decoupled look-back", 2016, section 3, on
the operator of Blelloch, 1990). Time is cut into chunks of `LENGTH` rows, counted from its beginning; a thread walks
through one chunk of one block, with the block's vector in registers and the rows of the next steps in flight:

    reduce   P_j = A_last ... A_first, y_j = the chunk scanned from zero       reads A and b
    carry    x at the end of chunk j = P_j x_{j-1} + y_j                       on 1 / LENGTH of the rows
    apply    the chunk scanned from what the chunk before ended with           reads A and b, writes x

So A and b are read twice and x is written once. The second reading goes backwards, from what the second-level cache (60
MB on an H200) still holds: all of it while A and b fit there. Diagonals and blocks of 2 in float32 and half precision
are read once, by `single_pass`. How row t associates is a function of t alone, whatever else is scanned with it and
however many rows follow.

Nothing is multiplied by the first matrix where there is no initial value, so it may be anything, NaN included.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LENGTH = 64
"""Rows of a chunk: long enough that the aggregates are few, short enough that T = 10,000 has threads enough."""

TILE = 1024
"""Chunks that one program of the carry's scan takes at once."""

STEPS = {1: 8, 2: 4, 3: 2, 4: 2}
"""Rows whose matrices and vectors a thread reads ahead, by the size of a block: they live in registers."""

LANES = 128
"""Chunks times blocks of one program; four warps, so one of them for each thread."""


@triton.jit
def _read(p, row_stride, entry_stride, mask, ROWS: tl.constexpr, ENTRIES: tl.constexpr, ACC: tl.constexpr):
    """The entries of a matrix or vector, as a tuple in row-major order."""
    out = ()
    for r in tl.static_range(ROWS):
        for k in tl.static_range(ENTRIES):
            out = out + (tl.load(p + r * row_stride + k * entry_stride, mask, other=0.0).to(ACC),)
    return out


@triton.jit
def _times(a, y, start, K: tl.constexpr, PRODUCTS: tl.constexpr):
    """`A y` for the block whose entries begin at `a[start]`, as a tuple."""
    out = ()
    for r in tl.static_range(K):
        total = _term(a[start + r * K], y[0], PRODUCTS)
        for k in tl.static_range(1, K):
            total += _term(a[start + r * K + k], y[k], PRODUCTS)
        out = out + (total,)
    return out


@triton.jit
def _term(a, y, PRODUCTS: tl.constexpr):
    """`a y`; where `a` is of a product of matrices, which may have overflown, an exact zero stays one."""
    return tl.where(y == 0, 0.0, a * y) if PRODUCTS else a * y


@triton.jit(do_not_specialize=["n", "columns", "blocks"])
def _walk(
    a, x, initial, product, last, n, columns, blocks,
    a_t, a_b, a_q, a_r, a_k, x_t, x_b, x_d, i_b, i_d,
    LENGTH: tl.constexpr, STEPS: tl.constexpr, K: tl.constexpr, CHUNKS: tl.constexpr, COLUMNS: tl.constexpr,
    INITIAL: tl.constexpr, PRODUCTS: tl.constexpr, APPLY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Walk through chunks: to their products and last rows, or, to apply, from the last rows of the chunks before."""
    program, tiles = tl.num_programs(0) - 1 - tl.program_id(0) if APPLY else tl.program_id(0), tl.cdiv(columns, COLUMNS)
    chunk = (program // tiles).to(tl.int64) * CHUNKS + tl.arange(0, CHUNKS)[:, None]
    column = (program % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    # In 64 bits: a stride fits 32 bits, a multiple of it need not.
    a_t, a_r, a_k = tl.cast(a_t, tl.int64), tl.cast(a_r, tl.int64), tl.cast(a_k, tl.int64)
    x_t, x_d = tl.cast(x_t, tl.int64), tl.cast(x_d, tl.int64)
    first = chunk * LENGTH
    here = (column < columns) & (first < n)
    batch, block = (column // blocks).to(tl.int64), (column % blocks).to(tl.int64)
    pa = a + first * a_t + batch * a_b + block * a_q
    px = x + first * x_t + batch * x_b + block * K * x_d
    aggregate = (chunk * columns + column) * K

    y = ()
    for k in tl.static_range(K):
        value = tl.zeros((CHUNKS, COLUMNS), ACC)
        if APPLY:
            value = tl.load(last + aggregate - columns * K + k, here & (chunk > 0), other=0.0)
        if INITIAL:
            start = tl.load(initial + batch * i_b + (block * K + k) * i_d, here & (chunk == 0), other=0.0).to(ACC)
            value = tl.where(chunk == 0, start, value)
        y = y + (value,)
    p = ()
    for r in tl.static_range(K):
        for k in tl.static_range(K):
            p = p + (tl.full((CHUNKS, COLUMNS), 1.0 if r == k else 0.0, ACC),)

    for i in range(0, LENGTH, STEPS):
        am = ()
        bm = ()
        for u in tl.static_range(STEPS):
            row = first + i + u
            inside = here & (row < n)
            used = inside if INITIAL else inside & (row > 0)
            am = am + _read(pa + u * a_t, a_r, a_k, used, K, K, ACC)
            bm = bm + _read(px + u * x_t, 0, x_d, inside, 1, K, ACC)
        for u in tl.static_range(STEPS):
            moved = _times(am, y, u * K * K, K, PRODUCTS)
            y = ()
            for k in tl.static_range(K):
                y = y + (moved[k] + bm[u * K + k],)
            if APPLY:
                for k in tl.static_range(K):
                    inside = here & (first + i + u < n)
                    tl.store(px + u * x_t + k * x_d, y[k].to(x.dtype.element_ty), inside)
            else:
                q = ()
                for r in tl.static_range(K):
                    for k in tl.static_range(K):
                        total = am[u * K * K + r * K] * p[k]
                        for m in tl.static_range(1, K):
                            total += am[u * K * K + r * K + m] * p[m * K + k]
                        q = q + (total,)
                p = q
        pa += STEPS * a_t
        px += STEPS * x_t

    if not APPLY:
        for k in tl.static_range(K):
            tl.store(last + aggregate + k, y[k], here)
        for k in tl.static_range(K * K):
            tl.store(product + aggregate * K + k, p[k], here)


@triton.jit
def _compose(a, x, a_later, x_later):
    """First `(a, x)`, then the later map."""
    return a_later * a, _term(a_later, x, True) + x_later


@triton.jit(do_not_specialize=["m", "columns"])
def _carry(product, last, m, columns, TILE: tl.constexpr):
    """Scan the aggregates of one column in place: `last_j = product_j last_{j-1} + last_j`, tile after tile."""
    row, column = tl.arange(0, TILE), tl.program_id(0).to(tl.int64)
    before = tl.zeros((1,), last.dtype.element_ty)
    start = 0
    while start < m:
        inside = start + row < m
        at = (start + row).to(tl.int64) * columns + column
        a = tl.load(product + at, inside, other=0.0)
        x = tl.load(last + at, inside, other=0.0)
        a, x = tl.associative_scan((a, x), 0, _compose)
        x += _term(a, before, True)
        tl.store(last + at, x, inside)
        before = tl.sum(tl.where(row == TILE - 1, x, 0.0), 0, keep_dims=True)
        start += TILE


def scan_(
    a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool, *,
    length: int = LENGTH, tile: int = TILE, products: bool = False,
) -> None:  # fmt: skip
    """Scan in place.

    Args:
        a: the blocks, `(n, B, D // K, K, K)`, K from 1 to 4, any strides; half precision, float32 or float64.
        x: on entry b, on return the solution, `(n, B, D)`, any strides. Accumulated in float32, or in float64 where `a`
            or `x` is.
        initial: `(B, D)`, or None.
        reverse: backwards in time, `x_t = A_t x_{t+1} + b_t`.
        length: rows of a chunk; a multiple of 8.
        tile: chunks of one tile of the carry's scan; a power of 2.
        products: `a` holds products of matrices, which may overflow where the solution does not; then 0 times inf is 0.
    """
    n, batch, blocks, size = a.shape[:4]
    columns, chunks = batch * blocks, triton.cdiv(n, length)
    accumulate = torch.promote_types(torch.promote_types(a.dtype, x.dtype), torch.float32)
    shape = (chunks - 1, columns, size)
    last = x.new_empty(shape, dtype=accumulate)
    if chunks > 1:
        product = x.new_empty((*shape, size), dtype=accumulate)
        _launch(a, x, initial, product, last, reverse, chunks - 1, length, PRODUCTS=products, APPLY=False)
        if size == 1:
            _carry[(columns,)](product, last, chunks - 1, columns, TILE=tile)
        else:
            flat = last.view(chunks - 1, 1, columns * size)
            scan_(product.unsqueeze(1), flat, None, False, length=length, products=True)
    _launch(a, x, initial, last, last, reverse, chunks, length, PRODUCTS=products, APPLY=True)


def _launch(
    a: Tensor, x: Tensor, initial: Tensor | None, product: Tensor, last: Tensor, reverse: bool, chunks: int,
    length: int, **which: bool,
) -> None:  # fmt: skip
    n, batch, blocks, size = a.shape[:4]
    columns = batch * blocks
    wide = min(triton.next_power_of_2(columns), LANES)
    tall = LANES // wide  # never fewer lanes than threads, or two of them would read and write the same rows
    accumulate: Any = tl.float64 if last.dtype == torch.float64 else tl.float32
    # Backwards is forwards from the last row with the stride of time negated.
    sign, first = (-1, n - 1) if reverse else (1, 0)
    start = x if initial is None else initial
    _walk[(triton.cdiv(chunks, tall) * triton.cdiv(columns, wide),)](
        a[first:], x[first:], start, product, last, min(n, chunks * length), columns, blocks,
        sign * a.stride(0), *a.stride()[1:], sign * x.stride(0), *x.stride()[1:],
        *((0, 0) if initial is None else initial.stride()),
        LENGTH=length, STEPS=STEPS[size], K=size, CHUNKS=tall, COLUMNS=wide,
        INITIAL=initial is not None, ACC=accumulate, **which,
    )  # fmt: skip
