# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""A plain recurrent network's step with the diagonal of its Jacobian, and a whole quasi-Newton iteration.

Reference: `nn.rnn.RNNDerivatives`, and `lds_iter.loop` for the iteration.

h' = a(x + W h), a = tanh or relu          diag J = a' diag W, a' = 1 - h'^2, or 1 where h' > 0

A program takes `ROWS` time steps of one sequence.
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
def _cell(before, u, weight, at, width, inside, WIDE: tl.constexpr, RELU: tl.constexpr):
    """The value and the diagonal for a tile of states."""
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    square = (j < width)[:, None] & (i < width)[None, :]
    x = gate(before, weight, 0, i, j, width, square) + tl.load(u + at, inside, other=0.0)
    if RELU:
        out = tl.where(x < 0, 0.0, x)
        bend = tl.where(out > 0, 1.0, 0.0)
    else:
        out = tanh(x)
        bend = 1 - out * out
    return out, bend * tl.load(weight + i * width + i, i < width, other=0.0)[None, :]


@triton.jit(do_not_specialize=["n", "batch"])
def _step(
    h, u, weight, value, slope, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr
):  # fmt: skip
    chunk, sequence = divided(tl.program_id(0), batch)
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    out, a = _cell(tl.load(h + at, inside, other=0.0), u, weight, at, width, inside, WIDE, RELU)
    tl.store(value + at, out, inside)
    tl.store(slope + at, a, inside)


@triton.jit(do_not_specialize=["n", "chunks", "batch", "start"])
def _iterate(
    u, weight, h, s0, new, exact, notes, left, resets, scratch, lo, hi, n, chunks, batch, width, start, rtol, atol,
    ROWS: tl.constexpr, WIDE: tl.constexpr, ULPS: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr,
    LEVELS: tl.constexpr, COUNTER: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    number = ticket(scratch)
    chunk, sequence = number // batch, number % batch
    inside, at = tile(chunk, sequence, n, batch, width, ROWS, WIDE)
    before = tl.load(h + at, inside, other=0.0)
    out, a = _cell(before, u, weight, at, width, inside, WIDE, RELU)
    states = tl.load(h + at + batch * width, inside, other=0.0)
    settle(
        (out,), (a,), (before,), (states,), s0, new, exact, notes, left, resets, scratch, lo, hi,
        chunk, chunks + 0 * chunk, sequence, n, batch, width, start, rtol, atol,
        ROWS, WIDE, 1, ULPS, PARTS, GROUP, LEVELS, COUNTER,
    )  # fmt: skip


def step(h: Tensor, u: Tensor, weight: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """`h'` and `diag J`, both `(n, B, D)`. All contiguous: `h` and `u` `(n, B, D)`; `weight` `(D, D)`."""
    (n, batch, width), wide = h.shape, padded(h.shape[-1])
    value, slope, rows = torch.empty_like(h), torch.empty_like(h), ROWS[wide]
    _step[(triton.cdiv(n, rows) * batch,)](
        h, u, weight, value, slope, n, batch, width, ROWS=rows, WIDE=wide, RELU=relu
    )  # fmt: skip
    return value, slope


def rnn_iteration(
    states: Tensor, u: Tensor, weight: Tensor, relu: bool, *, new: Tensor, **rest: Any
) -> settling.Outcome:  # fmt: skip
    """One quasi-Newton iteration from `states` into `new`.

    Args:
        states, new: see `settling.launch`, as for `rest`.
        u: pre-activations, `(n, B, D)`, contiguous.
        weight: `(D, D)`, contiguous.
        relu: of the two nonlinearities, the one that is not tanh.
    """
    rows = ROWS[padded(new.shape[-1])]
    return settling.launch(_iterate, (u, weight), states, new, size=1, rows=rows, RELU=relu, **rest)
