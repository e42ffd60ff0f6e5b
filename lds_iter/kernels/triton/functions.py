"""Functions that the kernels of the cells share. Triton has no tanh of its own; reference: `torch.tanh`."""

# pyright: reportMissingImports=false
from __future__ import annotations

import triton
import triton.language as tl

ROWS = {16: 32, 32: 32, 64: 16}
"""Time steps of one program of a cell, by the padded width: as many as its registers hold."""


def padded(width: int) -> int:
    """The width of a cell's tiles: a power of two, and enough for the matrix units."""
    return max(16, triton.next_power_of_2(width))


@triton.jit
def divided(number, batch):
    """Chunk and sequence of a program. There are fewer than 2^31: 32 bits take fewer registers, 64 hold offsets."""
    return (number // batch).to(tl.int64), (number % batch).to(tl.int64)


@triton.jit
def tile(chunk, sequence, n, batch, width, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Which channels of a chunk's rows of one sequence there are, and where they lie in contiguous memory."""
    t, i = chunk * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    inside = (t < n)[:, None] & (i < width)[None, :]
    return inside, (t[:, None] * batch + sequence) * width + i[None, :]


@triton.jit
def tanh(x):
    """Tanh by an exponential; below 1/4 by its Taylor series, where a difference of exponentials would cancel."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    y = x * x
    series = 1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835 + y * (-1382 / 155925)))))
    return tl.where(tl.abs(x) < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def gate(h, weight, k, i, j, width, square):
    """`W_k h` for a tile of rows: `h` is `(rows, WIDE)`, the weights of all gates `(gates D, D)`, contiguous.

    In float32 made of three TF32 products, which is as exact; in float64 for float64.
    """
    transposed = tl.load(weight + (k * width + i[None, :]) * width + j[:, None], square, other=0.0)
    PRECISION: tl.constexpr = "ieee" if weight.dtype.element_ty == tl.float64 else "tf32x3"
    return tl.dot(h, transposed, input_precision=PRECISION, out_dtype=h.dtype)
