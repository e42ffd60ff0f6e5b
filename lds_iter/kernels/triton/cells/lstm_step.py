# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""An LSTM's step with the 2x2 blocks of its Jacobian, and a whole iteration of `BlockNewton(2)`.

Reference: `nn.lstm.LSTMDerivatives`, and `lds_iter.loop` for the iteration.

    i, f, o = sigmoid(x_k + W_k h)     g = tanh(x_g + W_g h)     c' = f c + i g     h' = o tanh(c')
    block = [[e p + a_o diag W_o, e f], [p, f]]      p = a_i diag W_i + a_f diag W_f + a_g diag W_g
    a_i = g i (1 - i)   a_f = c f (1 - f)   a_g = i (1 - g^2)   a_o = tanh(c') o (1 - o)   e = o (1 - tanh(c')^2)

States are pairs of h and c, side by side. A program takes `ROWS` time steps of one sequence.
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

ITERATED = {16: 32, 32: 16, 64: 16}
"""`ROWS` of an iteration, which holds more."""


@triton.jit
def _cell(h, c, u_i, u_f, u_g, u_o, weight, at, width, inside, WIDE: tl.constexpr):
    """The value, h' and c', and the block, row after row, for a tile of states."""
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    square = (j < width)[:, None] & (i < width)[None, :]
    own, gates = weight + i * width + i, width * width
    enter = tl.sigmoid(gate(h, weight, 0, i, j, width, square) + tl.load(u_i + at, inside, other=0.0))
    g = tanh(gate(h, weight, 2, i, j, width, square) + tl.load(u_g + at, inside, other=0.0))
    p = g * enter * (1 - enter) * tl.load(own, i < width, other=0.0)[None, :]
    p += enter * (1 - g * g) * tl.load(own + 2 * gates, i < width, other=0.0)[None, :]
    forget = tl.sigmoid(gate(h, weight, 1, i, j, width, square) + tl.load(u_f + at, inside, other=0.0))
    p += c * forget * (1 - forget) * tl.load(own + gates, i < width, other=0.0)[None, :]
    cell = forget * c + enter * g
    squashed = tanh(cell)
    out = tl.sigmoid(gate(h, weight, 3, i, j, width, square) + tl.load(u_o + at, inside, other=0.0))
    through = out * (1 - squashed * squashed)
    w_o = tl.load(own + 3 * gates, i < width, other=0.0)[None, :]
    corner = through * p + squashed * out * (1 - out) * w_o
    return out * squashed, cell, corner, through * forget, p, forget


@triton.jit(do_not_specialize=["n", "batch"])
def _step(
    s, u_i, u_f, u_g, u_o, weight, value, blocks, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    chunk, sequence = divided(tl.program_id(0), batch)
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    h, c = tl.load(s + 2 * at, inside, other=0.0), tl.load(s + 2 * at + 1, inside, other=0.0)
    found = _cell(h, c, u_i, u_f, u_g, u_o, weight, at, width, inside, WIDE)
    for k in tl.static_range(2):
        tl.store(value + 2 * at + k, found[k], inside)
    for k in tl.static_range(4):
        tl.store(blocks + 4 * at + k, found[2 + k], inside)


@triton.jit(do_not_specialize=["n", "chunks", "batch", "start"])
def _iterate(
    u_i, u_f, u_g, u_o, weight,
    s, s0, new, exact, notes, left, resets, scratch, lo, hi, n, chunks, batch, width, start, rtol, atol,
    ROWS: tl.constexpr, WIDE: tl.constexpr, ULPS: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr,
    LEVELS: tl.constexpr, COUNTER: tl.constexpr,
):  # fmt: skip
    number = ticket(scratch)
    chunk, sequence = number // batch, number % batch
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    h, c = tl.load(s + 2 * at, inside, other=0.0), tl.load(s + 2 * at + 1, inside, other=0.0)
    out, cell, b0, b1, b2, b3 = _cell(h, c, u_i, u_f, u_g, u_o, weight, at, width, inside, WIDE)
    after = s + 2 * batch * width
    states = tl.load(after + 2 * at, inside, other=0.0), tl.load(after + 2 * at + 1, inside, other=0.0)
    settle(
        (out, cell), (b0, b1, b2, b3), (h, c), states, s0, new, exact, notes, left, resets, scratch, lo, hi,
        chunk, chunks + 0 * chunk, sequence, n, batch, width, start, rtol, atol,
        ROWS, WIDE, 2, ULPS, PARTS, GROUP, LEVELS, COUNTER,
    )  # fmt: skip


def step(s: Tensor, u: list[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """The next states `(n, B, 2 D)` and the blocks `(n, B, D, 2, 2)`.

    All contiguous: states `(n, B, 2 D)`; each of `u` `(n, B, D)`; `weight` `(4 D, D)`.
    """
    (n, batch, width), wide = u[0].shape, padded(u[0].shape[-1])
    value, blocks, rows = torch.empty_like(s), s.new_empty(n, batch, width, 2, 2), ROWS[wide]
    _step[(triton.cdiv(n, rows) * batch,)](
        s, *u, weight, value, blocks, n, batch, width, ROWS=rows, WIDE=wide, num_warps=4 if wide == 16 else 8
    )  # fmt: skip
    return value, blocks


def lstm_iteration(states: Tensor, u: list[Tensor], weight: Tensor, *, new: Tensor, **rest: Any) -> settling.Outcome:
    """One iteration of `BlockNewton(2)` from `states` into `new`.

    Args:
        states, new: pairs of h and c, `(n + 1, B, 2 D)` and `(n, B, 2 D)`; see `settling.launch`, as for `rest`.
        u: pre-activations, each `(n, B, D)`, contiguous.
        weight: `(4 D, D)`, contiguous.
    """
    return settling.launch(_iterate, (*u, weight), states, new, size=2, rows=ITERATED[padded(u[0].shape[-1])], **rest)
