# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""A plain recurrent network's step with the diagonal of its Jacobian, in one pass; reference: `nn.rnn.RNNDerivatives`.

h' = a(x + W h), a = tanh or relu          diag J = a' diag W, a' = 1 - h'^2, or 1 where h' > 0

A program takes `ROWS` time steps of one sequence.
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
    h, u, weight, value, slope, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr, RELU: tl.constexpr
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i, j = tl.arange(0, WIDE), tl.arange(0, WIDE)
    inside = (t < n)[:, None] & (i < width)[None, :]
    square = (j < width)[:, None] & (i < width)[None, :]
    at = (t[:, None] * batch + tl.program_id(1)) * width + i[None, :]
    before = tl.load(h + at, inside, other=0.0)
    x = gate(before, weight, 0, i, j, width, square) + tl.load(u + at, inside, other=0.0)
    if RELU:
        out = tl.where(x < 0, 0.0, x)
        bend = tl.where(out > 0, 1.0, 0.0)
    else:
        out = tanh(x)
        bend = 1 - out * out
    tl.store(value + at, out, inside)
    tl.store(slope + at, bend * tl.load(weight + i * width + i, i < width, other=0.0)[None, :], inside)


def step(h: Tensor, u: Tensor, weight: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """`h'` and `diag J`, both `(n, B, D)`. All contiguous: `h` and `u` `(n, B, D)`; `weight` `(D, D)`."""
    n, batch, width = h.shape
    value, slope = torch.empty_like(h), torch.empty_like(h)
    wide = max(16, triton.next_power_of_2(width))
    rows = ROWS[wide]
    _step[(triton.cdiv(n, rows), batch)](
        h, u, weight, value, slope, n, batch, width, ROWS=rows, WIDE=wide, RELU=relu
    )  # fmt: skip
    return value, slope
