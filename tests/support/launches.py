"""The launches of the library's kernels that are compiled ahead of time, on memory of the CPU."""

import torch

from lds_iter.kernels.triton.cells import gru_step, lstm_step, rnn_step
from lds_iter.kernels.triton.scans import block_scan, dense_scan, single_pass


def _blocks(size, a_dtype, x_dtype, reverse, initial):
    a, x = torch.rand(300, 2, 16, size, size, dtype=a_dtype), torch.rand(300, 2, 16 * size, dtype=x_dtype)
    return lambda: block_scan.scan_(a, x, x[0].clone() if initial else None, reverse)


def _single(size, width, a_dtype, x_dtype, reverse, initial, batch=1):
    a = torch.rand(600, batch, width // size, size, size, dtype=a_dtype)
    x = torch.rand(600, batch, width, dtype=x_dtype)
    return lambda: single_pass.scan_(a, x, x[0].clone() if initial else None, reverse)


def _transposed():
    """Not one of the strides is 1 or divides by 16."""
    a, x = torch.rand(1, 3, 10, 1, 601).permute(4, 1, 2, 0, 3), torch.rand(3, 10, 601).permute(2, 0, 1)
    return lambda: single_pass.scan_(a, x, x[0].clone(), False)


def _dense(width, a_dtype, x_dtype, reverse, initial):
    a, x = torch.rand(100, 2, width, width, dtype=a_dtype), torch.rand(100, 2, width, dtype=x_dtype)
    return lambda: dense_scan.scan_(a, x, x[0].clone() if initial else None, reverse)


def _cells(width):
    states, pairs, u = torch.rand(101, 2, width), torch.rand(101, 2, 2 * width), list(torch.rand(4, 100, 2, width))
    weight, lo = torch.rand(4 * width, width), torch.zeros(2, dtype=torch.int64)
    open_rows = {"start": 0, "lo": lo, "hi": lo + 100, "rtol": 0.0, "atol": 1e-5}

    def run():
        gates = u[0], u[1], u[2]
        gru_step.step(states[1:], gates, weight[: 3 * width], weight[0])
        lstm_step.step(pairs[1:], u, weight)
        rnn_step.step(states[1:], u[0], weight[:width], False)
        one = {"new": states[1:].clone(), "s0": states[0], **open_rows}
        gru_step.gru_iteration(states, gates, weight[: 3 * width], weight[0], **one)
        rnn_step.rnn_iteration(states, u[0], weight[:width], False, **one)
        lstm_step.lstm_iteration(pairs, u, weight, new=pairs[1:].clone(), s0=pairs[0], **open_rows)

    return run


LAUNCHES = {
    "diagonal": _blocks(1, torch.float32, torch.float32, False, True),
    "diagonal, backwards": _blocks(1, torch.float32, torch.float32, True, False),
    "diagonal, bfloat16": _blocks(1, torch.bfloat16, torch.bfloat16, False, True),
    "diagonal, float64": _blocks(1, torch.float64, torch.float64, False, False),
    "blocks of 2": _blocks(2, torch.float32, torch.float32, False, True),
    "blocks of 2, float64": _blocks(2, torch.float64, torch.float64, True, False),
    "blocks of 3": _blocks(3, torch.float32, torch.float32, False, False),
    "blocks of 4": _blocks(4, torch.float32, torch.float32, False, True),
    "one launch, D = 1": _single(1, 1, torch.float32, torch.float32, False, False),
    "one launch, D = 4": _single(1, 4, torch.float32, torch.float32, False, True),
    "one launch, D = 32, backwards": _single(1, 32, torch.float32, torch.float32, True, True),
    "one launch, D = 50": _single(1, 50, torch.float32, torch.float32, False, True),
    "one launch, transposed": _transposed(),
    "one launch, D = 7, bfloat16 and float32": _single(1, 7, torch.bfloat16, torch.float32, True, False),
    "one launch, D = 30, bfloat16": _single(1, 30, torch.bfloat16, torch.bfloat16, True, True),
    "one launch, blocks of 2": _single(2, 32, torch.float32, torch.float32, False, True),
    "one launch, blocks of 2, bfloat16": _single(2, 64, torch.bfloat16, torch.bfloat16, False, False),
    "D = 5": _dense(5, torch.float32, torch.float32, False, True),
    "D = 32": _dense(32, torch.float32, torch.float32, True, False),
    "D = 64": _dense(64, torch.float32, torch.float32, False, False),
    "D = 64, bfloat16": _dense(64, torch.bfloat16, torch.bfloat16, False, True),
    "cells, D = 5": _cells(5),
    "cells, D = 32": _cells(32),
    "cells, D = 64": _cells(64),
    "D = 32, float64": _dense(32, torch.float64, torch.float64, False, True),
}
