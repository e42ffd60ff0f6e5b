"""Bytes that the Triton kernels move, counted by running them in Triton's interpreter: `python -m bench.kernels`.

A launch is charged for every address that it reads or writes, once: what caches spare within a launch is spared, what
they may spare between launches (the second reading of a scan) is not. Memory that is zeroed before a launch is written
by a launch of its own. The least that an operation must move is each argument read and each result written once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SCANNED, STEPPED = (512, 1024), (32, 288)
"""Time steps at which bytes are counted, of scans and of cells. The difference, whole chunks of each kernel, is what
further steps cost."""

Operation = tuple[Callable[[], Any], int]


@dataclass(frozen=True)
class Bytes:
    """Of one operation, by what it reads and writes, summed over its launches."""

    read: int
    written: int
    launches: int


def count(run: Callable[[], Any]) -> Bytes:
    """What `run` moves. Needs Triton, imported with `TRITON_INTERPRET=1`."""
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

    launches: list[tuple[set[int], set[int]]] = []
    zeroed: list[int] = []
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, call = builder.create_masked_load, builder.create_masked_store, executor.__call__
    atomic, zeros = builder.create_atomic_rmw, torch.zeros

    def addresses(pointers: Any, mask: Any, item: int) -> set[int]:
        first = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)].astype(np.int64)
        return set((first[:, None] + np.arange(item)).ravel().tolist())

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        result = load(self, pointers, mask, *rest)
        launches[-1][0].update(addresses(pointers, mask, result.data.itemsize))
        return result

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1][1].update(addresses(pointers, mask, value.data.itemsize))
        return store(self, pointers, value, mask, *rest)

    def counted_atomic(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1][1].update(addresses(pointers, mask, value.data.itemsize))
        return atomic(self, operation, pointers, value, mask, *rest)

    def counted_zeros(*given: Any, **named: Any) -> torch.Tensor:
        zeroed.append((made := zeros(*given, **named)).nbytes)
        return made

    def counted_call(self: Any, *given: Any, **named: Any) -> Any:
        launches.append((set(), set()))
        return call(self, *given, **named)

    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    builder.create_atomic_rmw, executor.__call__, torch.zeros = counted_atomic, counted_call, counted_zeros
    try:
        run()
    finally:
        builder.create_masked_load, builder.create_masked_store, executor.__call__ = load, store, call
        builder.create_atomic_rmw, torch.zeros = atomic, zeros
    written = sum(zeroed) + sum(len(wrote) for _, wrote in launches)
    return Bytes(sum(len(read) for read, _ in launches), written, len(launches) + len(zeroed))


def scans(rows: int) -> dict[str, Operation]:
    """Scans of `rows` time steps on memory of the CPU, each with the least bytes that it must move."""
    from lds_iter.kernels.triton.scans import block_scan, cuda

    def scan(op: Any, width: int, *blocks: int, dtype: torch.dtype = torch.float32) -> Operation:
        a, x = torch.rand(rows, 1, *blocks).to(dtype) / blocks[-1], torch.rand(rows, 1, width).to(dtype)
        return lambda: op(a, x, None, False), a.nbytes + 2 * x.nbytes

    return {
        "diagonal, float32": scan(cuda.block_scan_, 4, 4, 1, 1),
        "diagonal, bfloat16": scan(cuda.block_scan_, 4, 4, 1, 1, dtype=torch.bfloat16),
        "diagonal, float32, three launches": scan(block_scan.scan_, 4, 4, 1, 1),
        "diagonal, float64": scan(cuda.block_scan_, 4, 4, 1, 1, dtype=torch.float64),
        "2x2 blocks": scan(cuda.block_scan_, 4, 2, 2, 2),
        "4x4 blocks": scan(cuda.block_scan_, 4, 1, 4, 4),
        "dense, D = 8": scan(cuda.dense_scan_, 8, 8, 8),
        "dense, D = 32": scan(cuda.dense_scan_, 32, 32, 32),
    }


def steps(rows: int, width: int = 4) -> dict[str, Operation]:
    """Steps and iterations of cells, likewise. Weights are left out: they are the same at every step."""
    from lds_iter.kernels.triton.cells import iterations
    from lds_iter.kernels.triton.cells import operators as cells

    h, *u = torch.rand(5, rows, 1, width).unbind(0)
    pairs, weight, bias = torch.rand(rows, 1, 2 * width), torch.rand(4 * width, width), torch.rand(width)
    states, both = torch.rand(rows + 1, 1, width), torch.rand(rows + 1, 1, 2 * width)
    start, three = torch.zeros(1, dtype=torch.int64), weight[: 3 * width]
    rest = 0, start, start + rows, 0.0, 1e-5
    one, two = (torch.empty_like(h), h[0], *rest), (torch.empty_like(pairs), pairs[0], *rest)
    return {
        "GRU step: value, diagonal": (lambda: cells.gru_step(h, *u[:3], three, bias), 6 * h.nbytes),
        "GRU iteration": (lambda: iterations.gru_iteration_(states, *u[:3], three, bias, *one), 5 * h.nbytes),
        "LSTM step: value, blocks": (lambda: cells.lstm_step(pairs, *u, weight), 12 * h.nbytes),
        "LSTM iteration": (lambda: iterations.lstm_iteration_(both, *u, weight, *two), 8 * h.nbytes),
        "RNN step: value, diagonal": (lambda: cells.rnn_step(h, u[0], weight[:width], False), 4 * h.nbytes),
        "RNN iteration": (lambda: iterations.rnn_iteration_(states, u[0], weight[:width], False, *one), 3 * h.nbytes),
    }  # fmt: skip


def table() -> list[dict[str, Any]]:
    """What every operation must move and moves for each time step, and its launches, counted in the interpreter."""
    os.environ["TRITON_INTERPRET"] = "1"
    rows = []
    for operations, (short, long) in (scans, SCANNED), (steps, STEPPED):
        few, many = operations(short), operations(long)
        for name in few:
            one, other = count(few[name][0]), count(many[name][0])
            moved = (other.read + other.written - one.read - one.written) / (long - short)
            least = (many[name][1] - few[name][1]) / (long - short)
            rows.append({"operation": name, "least": least, "moved": moved, "launches": other.launches})
    return rows
