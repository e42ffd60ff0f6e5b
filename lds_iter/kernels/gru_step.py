# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""A GRU's step with the diagonal of its Jacobian, and a whole quasi-Newton iteration.

Reference: `nn.gru.GRUDerivatives`, and `linear_scan` for the iteration.

    r = sigmoid(x_r + W_r h)     z = sigmoid(x_z + W_z h)     q = W_n h + b_n     n = tanh(x_n + r q)
    h' = n + z (h - n)
    diag J = z + a_z diag W_z + g (r diag W_n + q r (1 - r) diag W_r)      a_z = (h - n) z (1 - z), g = (1 - z)(1 - n^2)

One pass over memory: pre-activations and states in; value and diagonal out, or, in an iteration, value, residual and
the part of the scan `d_t = A_t d_{t-1} + r_t` that lies within the chunk (products of A, and d from zero), with the
largest residual of the chunk. A small scan over the chunks and one pass of multiply-adds then give d.

A program takes `ROWS` time steps of one sequence, so how row t associates is a function of t alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lds_iter.kernels import block_scan
from lds_iter.kernels.functions import gate, largest, tanh

ROWS = {16: 32, 32: 32, 64: 16}
"""Time steps of one program, by the padded width: as many as its registers hold."""


@triton.jit
def _compose(a, x, a_later, x_later):
    return a_later * a, a_later * x + x_later


@triton.jit(do_not_specialize=["n", "batch"])
def _step(
    h, u_r, u_z, u_n, weight, bias, frontier, value, residual, slope, local, product, last, top, n, batch, width,
    ROWS: tl.constexpr, WIDE: tl.constexpr, ITERATE: tl.constexpr,
):  # fmt: skip
    chunk, sequence = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, i, j = chunk * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, WIDE)
    inside = (t < n)[:, None] & (i < width)[None, :]
    square = (j < width)[:, None] & (i < width)[None, :]
    at = (t[:, None] * batch + sequence) * width + i[None, :]
    before = tl.load(h + at, inside, other=0.0)

    r = tl.sigmoid(gate(before, weight, 0, i, j, width, square) + tl.load(u_r + at, inside, other=0.0))
    q = gate(before, weight, 2, i, j, width, square) + tl.load(bias + i, i < width, other=0.0)[None, :]
    new = tanh(tl.load(u_n + at, inside, other=0.0) + r * q)
    own = i * width + i
    w_r = tl.load(weight + own, i < width, other=0.0)[None, :]
    w_n = tl.load(weight + 2 * width * width + own, i < width, other=0.0)[None, :]
    through = (1 - new * new) * (r * w_n + q * r * (1 - r) * w_r)
    z = tl.sigmoid(gate(before, weight, 1, i, j, width, square) + tl.load(u_z + at, inside, other=0.0))
    gap = before - new
    out = new + z * gap
    w_z = tl.load(weight + width * width + own, i < width, other=0.0)[None, :]
    a = z + gap * z * (1 - z) * w_z + (1 - z) * through
    tl.store(value + at, out, inside)
    if ITERATE:
        states = tl.load(h + at + batch * width, inside, other=0.0)
        p = tl.load(frontier + sequence)
        difference = tl.where(inside & (t >= p)[:, None], out - states, 0.0)
        tl.store(residual + at, difference, inside)
        tl.store(top + chunk * batch + sequence + tl.arange(0, 1), largest(difference))
        a, x = tl.associative_scan((tl.where((t > p)[:, None], a, 0.0), difference), 0, _compose)
        tl.store(local + at, x, inside)
        ends = inside & (t == chunk * ROWS + ROWS - 1)[:, None]
        column = (chunk * batch + sequence) * width + i[None, :] + tl.zeros((ROWS, 1), tl.int64)
        tl.store(product + column, a, ends)
        tl.store(last + column, x, ends)
    tl.store(slope + at, a, inside)


@triton.jit(do_not_specialize=["n", "columns"])
def _finish(slope, local, last, n, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """`d = local + slope * (d at the end of the chunk before)`, in place of `local`."""
    chunk = tl.program_id(0).to(tl.int64)
    t, c = chunk * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < n)[:, None] & (c < columns)[None, :]
    at = t[:, None] * columns + c[None, :]
    carry = tl.load(last + (chunk - 1) * columns + c, (c < columns) & (chunk + 0 * c > 0), other=0.0)[None, :]
    d, a = tl.load(local + at, inside, other=0.0), tl.load(slope + at, inside, other=0.0)
    tl.store(local + at, tl.where(carry == 0, d, d + a * carry), inside)


def step(h: Tensor, u: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`h'` and `diag J`, both `(n, B, D)`. All contiguous: `h`, each of `u` `(n, B, D)`; `weight` `(3 D, D)`; `bias`
    `(D)`, of the gate n."""
    value, slope = torch.empty_like(h), torch.empty_like(h)
    _launch(h, u, weight, bias, h, [value, h, slope, h, h, h, h], h.shape[0], ITERATE=False)
    return value, slope


def iterate(
    states: Tensor, u: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor, frontier: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One quasi-Newton iteration.

    Args:
        states: the state before the first step and the guess, `(n + 1, B, D)`, contiguous.
        u: pre-activations, each `(n, B, D)`, contiguous.
        weight: `(3 D, D)`, contiguous.
        bias: of the gate n, `(D)`.
        frontier: the first row of each sequence that is not accepted yet, int64, `(B)`; rows before it have residual 0,
            and it itself has A = 0.

    Returns:
        `f`'s value, the residual and the update d, `(n, B, D)`, and the largest residual of each sequence, `(B)`, NaN
        where there is one.
    """
    n, batch, width = u[0].shape
    rows = ROWS[_wide(width)]
    chunks = triton.cdiv(n, rows)
    value, residual, slope, local = (torch.empty_like(u[0]) for _ in range(4))
    product, last = states.new_empty(2, chunks, batch, width).unbind(0)
    top = states.new_empty(chunks, batch)
    out = [value, residual, slope, local, product, last, top]
    _launch(states, u, weight, bias, frontier, out, n, ITERATE=True)
    if chunks > 1:
        columns = batch * width
        block_scan.scan_carries_(product, last, chunks - 1, tile=block_scan.TILE)
        wide = min(32, triton.next_power_of_2(columns))
        _finish[(chunks, triton.cdiv(columns, wide))](slope, local, last, n, columns, ROWS=rows, COLUMNS=wide)
    return value, residual, local, top.amax(0)


def _launch(
    h: Tensor, u: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor, frontier: Tensor, out: list[Tensor],
    n: int, **which: bool,
) -> None:  # fmt: skip
    batch, width = h.shape[1:]
    wide = _wide(width)
    _step[(triton.cdiv(n, ROWS[wide]), batch)](
        h, *u, weight, bias, frontier, *out, n, batch, width, ROWS=ROWS[wide], WIDE=wide, **which
    )  # fmt: skip


def _wide(width: int) -> int:
    return max(16, triton.next_power_of_2(width))
