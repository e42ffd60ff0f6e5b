# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""An LSTM's step with the 2x2 blocks of its Jacobian, in one pass; reference: `nn.lstm.LSTMDerivatives`.

    i, f, o = sigmoid(x_k + W_k h)     g = tanh(x_g + W_g h)     c' = f c + i g     h' = o tanh(c')
    block = [[e p + a_o diag W_o, e f], [p, f]]      p = a_i diag W_i + a_f diag W_f + a_g diag W_g
    a_i = g i (1 - i)   a_f = c f (1 - f)   a_g = i (1 - g^2)   a_o = tanh(c') o (1 - o)   e = o (1 - tanh(c')^2)

States are pairs of h and c, side by side. A program takes `ROWS` time steps of one sequence.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lds_iter.kernels.functions import gate, tanh

ROWS = {16: 32, 32: 32, 64: 16}
"""Time steps of one program, by the padded width: as many as its registers hold."""


@triton.jit(do_not_specialize=["n", "batch"])
def _step(
    s, u_i, u_f, u_g, u_o, weight, value, blocks, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    inside = (t < n)[:, None] & (i < width)[None, :]
    square = (j < width)[:, None] & (i < width)[None, :]
    at = (t[:, None] * batch + tl.program_id(1)) * width + i[None, :]
    own, gates = weight + i * width + i, width * width
    h, c = tl.load(s + 2 * at, inside, other=0.0), tl.load(s + 2 * at + 1, inside, other=0.0)

    enter = tl.sigmoid(gate(h, weight, 0, i, j, width, square) + tl.load(u_i + at, inside, other=0.0))
    g = tanh(gate(h, weight, 2, i, j, width, square) + tl.load(u_g + at, inside, other=0.0))
    p = g * enter * (1 - enter) * tl.load(own, i < width, other=0.0)[None, :]
    p += enter * (1 - g * g) * tl.load(own + 2 * gates, i < width, other=0.0)[None, :]
    forget = tl.sigmoid(gate(h, weight, 1, i, j, width, square) + tl.load(u_f + at, inside, other=0.0))
    p += c * forget * (1 - forget) * tl.load(own + gates, i < width, other=0.0)[None, :]
    cell = forget * c + enter * g
    tl.store(value + 2 * at + 1, cell, inside)
    tl.store(blocks + 4 * at + 2, p, inside)
    tl.store(blocks + 4 * at + 3, forget, inside)
    squashed = tanh(cell)
    out = tl.sigmoid(gate(h, weight, 3, i, j, width, square) + tl.load(u_o + at, inside, other=0.0))
    through = out * (1 - squashed * squashed)
    tl.store(value + 2 * at, out * squashed, inside)
    w_o = tl.load(own + 3 * gates, i < width, other=0.0)[None, :]
    tl.store(blocks + 4 * at, through * p + squashed * out * (1 - out) * w_o, inside)
    tl.store(blocks + 4 * at + 1, through * forget, inside)


def step(s: Tensor, u: list[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """The next states `(n, B, 2 D)` and the blocks `(n, B, D, 2, 2)`.

    All contiguous: states `(n, B, 2 D)`; each of `u` `(n, B, D)`; `weight` `(4 D, D)`.
    """
    n, batch, width = u[0].shape
    value, blocks = torch.empty_like(s), s.new_empty(n, batch, width, 2, 2)
    wide = max(16, triton.next_power_of_2(width))
    rows = ROWS[wide]
    _step[(triton.cdiv(n, rows), batch)](
        s, *u, weight, value, blocks, n, batch, width, ROWS=rows, WIDE=wide, num_warps=8 if wide == 64 else 4
    )  # fmt: skip
    return value, blocks
