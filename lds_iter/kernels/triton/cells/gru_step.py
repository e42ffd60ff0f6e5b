# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""A GRU's step with the diagonal of its Jacobian, and a whole quasi-Newton iteration.

Reference: `nn.gru.GRUDerivatives`, and `lds_iter.loop` for the iteration.

    r = sigmoid(x_r + W_r h)     z = sigmoid(x_z + W_z h)     q = W_n h + b_n     n = tanh(x_n + r q)
    h' = n + z (h - n)
    diag J = z + a_z diag W_z + g (r diag W_n + q r (1 - r) diag W_r)      a_z = (h - n) z (1 - z), g = (1 - z)(1 - n^2)

One pass over memory: pre-activations and states in; value and diagonal out, or, in an iteration, the next iterate, with
the scan `d_t = A_t d_{t-1} + r_t` in the same launch (`lds_iter.kernels.triton.cells.settling`).

A program takes `ROWS` time steps of one sequence, so the order of summation in row t depends on t alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lds_iter.kernels.triton.cells import settling
from lds_iter.kernels.triton.cells.settling import settle
from lds_iter.kernels.triton.functions import ROWS, divided, gate, padded, tanh, tile
from lds_iter.kernels.triton.scans.look_back import ticket


@triton.jit
def _cell(before, u_r, u_z, u_n, weight, bias, at, width, inside, WIDE: tl.constexpr):
    """The value and the diagonal for a tile of states."""
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    square = (j < width)[:, None] & (i < width)[None, :]
    r = tl.sigmoid(gate(before, weight, 0, i, j, width, square) + tl.load(u_r + at, inside, other=0.0))
    q = gate(before, weight, 2, i, j, width, square) + tl.load(bias + i, i < width, other=0.0)[None, :]
    new = tanh(tl.load(u_n + at, inside, other=0.0) + r * q)
    own = i * width + i
    w_r = tl.load(weight + own, i < width, other=0.0)[None, :]
    w_n = tl.load(weight + 2 * width * width + own, i < width, other=0.0)[None, :]
    through = (1 - new * new) * (r * w_n + q * r * (1 - r) * w_r)
    z = tl.sigmoid(gate(before, weight, 1, i, j, width, square) + tl.load(u_z + at, inside, other=0.0))
    gap = before - new
    w_z = tl.load(weight + width * width + own, i < width, other=0.0)[None, :]
    return new + z * gap, z + gap * z * (1 - z) * w_z + (1 - z) * through


@triton.jit(do_not_specialize=["n", "batch"])
def _step(
    h, u_r, u_z, u_n, weight, bias, value, slope, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    chunk, sequence = divided(tl.program_id(0), batch)
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    before = tl.load(h + at, inside, other=0.0)
    out, a = _cell(before, u_r, u_z, u_n, weight, bias, at, width, inside, WIDE)
    tl.store(value + at, out, inside)
    tl.store(slope + at, a, inside)


@triton.jit(do_not_specialize=["n", "chunks", "batch", "start"])
def _iterate(
    u_r, u_z, u_n, weight, bias,
    h, s0, new, exact, notes, left, resets, scratch, lo, hi, n, chunks, batch, width, start, rtol, atol,
    ROWS: tl.constexpr, WIDE: tl.constexpr, ULPS: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr,
    LEVELS: tl.constexpr, COUNTER: tl.constexpr,
):  # fmt: skip
    number = ticket(scratch)
    chunk, sequence = number // batch, number % batch
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    before = tl.load(h + at, inside, other=0.0)
    out, a = _cell(before, u_r, u_z, u_n, weight, bias, at, width, inside, WIDE)
    states = tl.load(h + at + batch * width, inside, other=0.0)
    settle(
        (out,), (a,), (before,), (states,), s0, new, exact, notes, left, resets, scratch, lo, hi,
        chunk, chunks + 0 * chunk, sequence, n, batch, width, start, rtol, atol,
        ROWS, WIDE, 1, ULPS, PARTS, GROUP, LEVELS, COUNTER,
    )  # fmt: skip


def step(h: Tensor, u: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`h'` and `diag J`, both `(n, B, D)`. All contiguous: `h`, each of `u` `(n, B, D)`; `weight` `(3 D, D)`; `bias`
    `(D)`, of the gate n."""
    (n, batch, width), wide = h.shape, padded(h.shape[-1])
    value, slope, rows = torch.empty_like(h), torch.empty_like(h), ROWS[wide]
    _step[(triton.cdiv(n, rows) * batch,)](
        h, *u, weight, bias, value, slope, n, batch, width, ROWS=rows, WIDE=wide, num_warps=8 if wide == 64 else 4
    )  # fmt: skip
    return value, slope


def gru_iteration(
    states: Tensor, u: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor, *, new: Tensor, **rest: Any
) -> settling.Outcome:  # fmt: skip
    """One quasi-Newton iteration from `states` into `new`.

    Args:
        states, new: see `settling.launch`, as for `rest`.
        u: pre-activations, each `(n, B, D)`, contiguous.
        weight: `(3 D, D)`, contiguous.
        bias: of the gate n, `(D)`, contiguous.
    """
    given = (*u, weight, bias)
    return settling.launch(_iterate, given, states, new, size=1, rows=ROWS[padded(new.shape[-1])], **rest)
