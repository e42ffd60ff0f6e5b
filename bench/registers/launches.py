"""Every launch that the library makes of its Triton kernels: each kernel at each dtype and padded width offered.

A launch is described by memory of the CPU; `bench.registers.compiling` compiles what would be launched. Import it where
Triton is imported without `TRITON_INTERPRET`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lds_iter.kernels.triton.cells import gru_step, lstm_step, rnn_step
from lds_iter.kernels.triton.scans import block_scan, dense_scan, single_pass

Launch = Callable[[], None]

HALVES = torch.bfloat16, torch.float16
FLOATS = torch.float32, *HALVES


def _scan(scan_: Callable[..., None], a: torch.Tensor, x: torch.Tensor, initial: bool, reverse: bool) -> Launch:
    return lambda: scan_(a, x, x[0].clone() if initial else None, reverse)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def single_passes() -> dict[str, Launch]:
    """Diagonals and 2x2 blocks in one launch: dtypes by widths, with and without an initial value, odd layouts."""
    found = {}
    for size, widths in (1, (1, 2, 4, 32, 50)), (2, (2, 4, 32)):
        for dtype in FLOATS:
            for width in widths if dtype == torch.float32 else widths[-2:]:
                a = torch.rand(1200, 1, width // size, size, size, dtype=dtype)
                label = f"{'diagonal' if size == 1 else '2x2 blocks'}, {_name(dtype)}, D = {width}"
                found[label] = _scan(single_pass.scan_, a, torch.rand(1200, 1, width, dtype=dtype), True, False)
        a, x = torch.rand(1200, 3, 32 // size, size, size), torch.rand(1200, 3, 32)
        kind = "diagonal" if size == 1 else "2x2 blocks"
        found[f"{kind}, backwards, no initial value"] = _scan(single_pass.scan_, a, x, False, True)
        found[f"{kind}, bfloat16 of float32"] = _scan(single_pass.scan_, a.bfloat16(), x, True, False)
        apart = torch.rand(1, 3, 12 // size, size, size, 1201)[..., :-1].permute(5, 1, 2, 3, 4, 0)[..., 0]
        odd = torch.rand(3, 12, 1201)[..., :-1].permute(2, 0, 1)
        found[f"{kind}, no stride is 1 or divides by 16"] = _scan(single_pass.scan_, apart, odd, True, False)
        same = torch.rand(()).expand(1200, 3, 12 // size, size, size)
        found[f"{kind}, one number repeated"] = _scan(single_pass.scan_, same, torch.rand(1200, 3, 12), True, False)
    return found


def block_scans() -> dict[str, Launch]:
    """Three launches: float64, blocks of 3 and 4 in every dtype, and each split of lanes between chunks and columns."""
    found = {}
    for size in 1, 2, 3, 4:
        for dtype in (torch.float64,) if size <= 2 else (torch.float64, *FLOATS):
            a, x = torch.rand(9000, 2, 16, size, size, dtype=dtype), torch.rand(9000, 2, 16 * size, dtype=dtype)
            found[f"blocks of {size}, {_name(dtype)}"] = _scan(block_scan.scan_, a, x, True, False)
    for columns in 1, 8, 200:
        a, x = torch.rand(9000, 1, columns, 1, 1).double(), torch.rand(9000, 1, columns).double()
        found[f"diagonal, float64, D = {columns}, backwards"] = _scan(block_scan.scan_, a, x, False, True)
    a, x = torch.rand(9000, 2, 4, 4, 4).bfloat16(), torch.rand(9000, 2, 16)
    found["blocks of 4, bfloat16 of float32"] = _scan(block_scan.scan_, a, x, False, False)
    return found


def dense_scans() -> dict[str, Launch]:
    """Full matrices, on the matrix units."""
    found = {}
    for width in 5, 16, 32, 50, 64:
        for dtype in FLOATS if width > 32 else (torch.float64, *FLOATS):
            for initial in (True, False) if width in (5, 32) else (True,):
                a, x = torch.rand(2100, 2, width, width, dtype=dtype), torch.rand(2100, 2, width, dtype=dtype)
                label = f"full matrices, {_name(dtype)}, D = {width}" + ("" if initial else ", no initial value")
                found[label] = _scan(dense_scan.scan_, a, x, initial, not initial)
    a, x = torch.rand(2100, 2, 64, 64).bfloat16(), torch.rand(2100, 2, 64)
    found["full matrices, bfloat16 of float32, D = 64"] = _scan(dense_scan.scan_, a, x, True, False)
    return found


def cells(width: int) -> dict[str, Launch]:
    """Steps and whole iterations of the cells at one width."""
    states, pairs, u = torch.rand(101, 2, width), torch.rand(101, 2, 2 * width), list(torch.rand(4, 100, 2, width))
    weight, lo, gates = torch.rand(4 * width, width), torch.zeros(2, dtype=torch.int64), (u[0], u[1], u[2])
    rows = {"start": 0, "lo": lo, "hi": lo + 100, "rtol": 0.0, "atol": 1e-5}
    one = {"new": torch.rand(100, 2, width), "s0": states[0], **rows}
    two = {"new": torch.rand(100, 2, 2 * width), "s0": pairs[0], **rows}
    three, own = weight[: 3 * width], weight[:width]
    found = {
        "GRU step": lambda: gru_step.step(states[1:], gates, three, weight[0]),
        "GRU iteration": lambda: gru_step.gru_iteration(states, gates, three, weight[0], **one),
        "LSTM step": lambda: lstm_step.step(pairs[1:], u, weight),
        "LSTM iteration": lambda: lstm_step.lstm_iteration(pairs, u, weight, **two),
        "RNN step": lambda: rnn_step.step(states[1:], u[0], own, False),
        "RNN iteration": lambda: rnn_step.rnn_iteration(states, u[0], own, False, **one),
        "RNN iteration, relu": lambda: rnn_step.rnn_iteration(states, u[0], own, True, **one),
    }
    return {f"{name}, D = {width}": run for name, run in found.items()}


CELL_WIDTHS = 32, 1, 64, 50, 16, 5
"""1 is a constant to Triton, 16, 32 and 64 fill their tiles and divide by 16, the others do not."""


def launches() -> dict[str, Launch]:
    """All of them, by what they do; those that most users meet first."""
    found: dict[str, Launch] = {}
    for width in CELL_WIDTHS:
        found |= cells(width)
    return found | dense_scans() | single_passes() | block_scans()
