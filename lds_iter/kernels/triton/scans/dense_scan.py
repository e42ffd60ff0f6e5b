# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""The scan `x_t = A_t x_{t-1} + b_t` of full matrices on the matrix units of a GPU; reference: `reference_scan`.

Reduce, then scan, as in `block_scan`, but a program, not a thread, walks through a chunk of `LENGTH` rows:

    reduce   P = A_t P by matrix products, y = A_t y + b_t       reads A and b
    carry    the same scan on the P and y of all chunks          1 / LENGTH of the rows
    apply    y = A_t y + b_t from what the chunk before ended with       reads A and b, writes x

The products, D^3 of work a step, run in float32 made of three TF32 products ("3xTF32": Ootomo and Yokota, 2022), whose
error is that of float32; in TF32 where A comes in half precision, whose numbers TF32 holds exactly; in float64 for
float64. The vectors, D^2 of work a step, are always multiplied in full precision. The order of summation in row t
depends on t alone.

Nothing is multiplied by the first matrix where there is no initial value, so it may be anything, NaN included.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LENGTH = 32
"""Rows of a chunk."""

WARPS = {16: 1, 32: 4, 64: 4}
STEPS = {16: 4, 32: 4, 64: 1}
"""Warps of a program, and rows whose matrices it reads ahead, by the padded width: twice the warps and half the rows in
float64. All of it lives in registers, which bounds the width to 64, and to 32 in float64."""


@triton.jit(do_not_specialize=["n"])
def _walk(
    a, x, initial, product, last, n, batch, width,
    a_t, a_b, a_i, a_j, x_t, x_b, x_d, i_b, i_d,
    LENGTH: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr, INITIAL: tl.constexpr, PRODUCTS: tl.constexpr,
    APPLY: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Walk through one chunk: to its product and last row, or, to apply, from the last row of the chunk before."""
    # The second reading goes backwards, from what the second-level cache still holds of the first.
    program = tl.num_programs(0) - 1 - tl.program_id(0) if APPLY else tl.program_id(0)
    chunk, sequence = (program // batch).to(tl.int64), (program % batch).to(tl.int64)
    first = chunk * LENGTH
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    # In 64 bits: a stride fits 32 bits, a multiple of it need not.
    a_t, x_t = tl.cast(a_t, tl.int64), tl.cast(x_t, tl.int64)
    pa = a + first * a_t + sequence * a_b + i[:, None].to(tl.int64) * a_i + j[None, :].to(tl.int64) * a_j
    px = x + first * x_t + sequence * x_b + i.to(tl.int64) * x_d
    square = (i < width)[:, None] & (j < width)[None, :]
    same = 0 * j  # makes vectors of numbers, for masks: not every interpreter takes "vector and number"
    aggregate = chunk * batch + sequence

    y = tl.zeros((WIDE,), ACC)
    if APPLY:
        y = tl.load(last + (aggregate - batch) * width + j, (j < width) & (chunk + same > 0), other=0.0)
    if INITIAL:
        start = tl.load(
            initial + sequence * i_b + j.to(tl.int64) * i_d, (j < width) & (chunk + same == 0), other=0.0
        ).to(ACC)
        y = tl.where(chunk == 0, start, y)
    p = tl.where(i[:, None] == j[None, :], 1.0, 0.0).to(ACC)

    for step in range(0, LENGTH, STEPS):
        am = ()
        bm = ()
        for u in tl.static_range(STEPS):
            row = first + step + u + same
            used = square & (row < n)[None, :] if INITIAL else square & ((row < n) & (row > 0))[None, :]
            am = am + (tl.load(pa + u * a_t, used, other=0.0).to(ACC),)
            bm = bm + (tl.load(px + u * x_t, (i < width) & (row < n), other=0.0).to(ACC),)
        if APPLY:
            # Vectors are held by several warps at once: all must have read b before one overwrites it with x.
            tl.debug_barrier()
        for u in tl.static_range(STEPS):
            terms = am[u] * y[None, :]
            if PRODUCTS:  # a product of matrices may have overflown; an exact zero stays one
                terms = tl.where(y[None, :] == 0, 0.0, terms)
            y = tl.sum(terms, 1) + bm[u]
            if APPLY:
                inside = (i < width) & (first + step + u + same < n)
                tl.store(px + u * x_t, y.to(x.dtype.element_ty), inside)
            else:
                p = tl.dot(am[u], p, input_precision=PRECISION, out_dtype=ACC)
        pa += STEPS * a_t
        px += STEPS * x_t

    if not APPLY:
        tl.store(last + aggregate * width + i, y, i < width)
        tl.store(product + (aggregate * width + i[:, None]) * width + j[None, :], p, square)


def scan_(
    a: Tensor, x: Tensor, initial: Tensor | None, reverse: bool, *,
    length: int = LENGTH, products: str | None = None,
) -> None:  # fmt: skip
    """Scan in place.

    Args:
        a: the matrices, `(n, B, D, D)`, any strides; half precision, float32 or float64.
        x: on entry b, on return the solution, `(n, B, D)`, any strides. Accumulated in float32, or in float64 where `a`
            or `x` is.
        initial: `(B, D)`, or None.
        reverse: backwards in time, `x_t = A_t x_{t+1} + b_t`.
        length: rows of a chunk; a multiple of 4.
        products: the precision in which `a`, which holds products of matrices, was made; None where it holds none.
    """
    n, batch, width = x.shape
    chunks = triton.cdiv(n, length)
    accumulate = torch.promote_types(torch.promote_types(a.dtype, x.dtype), torch.float32)
    precision = products or precision_of(a.dtype, accumulate)
    last = x.new_empty((chunks - 1, batch, width), dtype=accumulate)
    which = {"PRODUCTS": products is not None, "PRECISION": precision}
    if chunks > 1:
        product = x.new_empty((*last.shape, width), dtype=accumulate)
        _launch(a, x, initial, product, last, reverse, chunks - 1, length, APPLY=False, **which)
        scan_(product, last, None, False, length=length, products=precision)
    _launch(a, x, initial, last, last, reverse, chunks, length, APPLY=True, **which)


def precision_of(dtype: torch.dtype, accumulate: torch.dtype) -> str:
    """The precision of the products, whatever `torch.set_float32_matmul_precision` allows elsewhere."""
    if accumulate == torch.float64:
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"


def _launch(
    a: Tensor, x: Tensor, initial: Tensor | None, product: Tensor, last: Tensor, reverse: bool, chunks: int,
    length: int, **which: bool | str,
) -> None:  # fmt: skip
    n, batch, width = x.shape
    wide = max(16, triton.next_power_of_2(width))
    accumulate: Any = tl.float64 if last.dtype == torch.float64 else tl.float32
    more = 2 if last.dtype == torch.float64 else 1
    # Backwards is forwards from the last row with the stride of time negated.
    sign, first = (-1, n - 1) if reverse else (1, 0)
    _walk[(chunks * batch,)](
        a[first:], x[first:], x if initial is None else initial, product, last, n, batch, width,
        sign * a.stride(0), *a.stride()[1:], sign * x.stride(0), *x.stride()[1:],
        *((0, 0) if initial is None else initial.stride()),
        LENGTH=length, STEPS=STEPS[wide] // more, WIDE=wide, INITIAL=initial is not None, ACC=accumulate,
        num_warps=WARPS[wide] * more, **which,
    )  # fmt: skip
