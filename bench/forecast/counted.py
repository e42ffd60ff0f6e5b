"""Counts of a solve on a CUDA device, made without one: bytes and launches of an iteration, and iterations.

Bytes by Triton's interpreter (`bench.kernels.bytes_moved`); launches by the operations that torch dispatches in the
loop, which is kept from looking at what it would not see on a device; iterations by solves. Needs Triton, imported with
`TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lds_iter as li
from bench.kernels import bytes_moved
from lds_iter import _torch
from lds_iter.kernels.triton.cells import operators as cells

ROWS = 64, 320
"""Time steps at which bytes are counted; the difference is what further steps cost. Whole chunks of each kernel."""

CUT, LATER = 3, 5
"""Iterations at which launches are counted; the difference is what two of them cost."""

KINDS: dict[str, li.LDSApproximation] = {"GRU": li.QuasiNewton(), "LSTM": li.BlockNewton(2), "RNN": li.QuasiNewton()}


@dataclass(frozen=True)
class Count:
    """Of one cell and width.

    Attributes:
        bytes_a_step: that an iteration moves for a time step of one sequence.
        launches: of an iteration, those of its kernels and of the loop around it.
        launches_once: of a solve, besides those of its iterations.
        iterations: of a solve of random inputs, weights as initialised, to a residual of 1e-5 from the repeated `s0`.
    """

    cell: str
    width: int
    bytes_a_step: float
    launches: int
    launches_once: int
    iterations: int


class _Launches(TorchDispatchMode):
    """Counts operations that a device would launch: neither views nor memory that is only taken."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if not func.is_view and not name.startswith("aten::empty"):
            self.count += KERNELS if name.startswith("lds_iter::") else 1
        return func(*args, **(kwargs or {}))


KERNELS = 3
"""Launches of a fused iteration: memory zeroed, the iteration, the combination of its measurements (`bytes_moved`)."""


@contextmanager
def as_on_a_device() -> Iterator[_Launches]:
    """The loop takes the path of a CUDA device."""
    with (
        torch.no_grad(),
        mock.patch.object(cells, "runs_on", return_value=True),
        mock.patch.object(_torch, "on_host", return_value=False),
        mock.patch.object(_torch, "lags", return_value=True),
        _Launches() as counted,
    ):
        yield counted


def _problem(cell: str, width: int, length: int) -> tuple[Any, Tensor, Any]:
    torch.manual_seed(0)
    f = getattr(li.nn, f"{cell}Recurrence").from_module(getattr(torch.nn, cell)(width, width))
    with torch.no_grad():
        inputs = f.inputs(torch.randn(length, 1, width))
    return f, torch.zeros(1, width * (2 if cell == "LSTM" else 1)), inputs


def launches(cell: str) -> tuple[int, int]:
    """Of an iteration, and of a solve besides its iterations. The sizes do not matter."""
    f, s0, inputs = _problem(cell, 4, 16)
    found = []
    for count in CUT, LATER:
        with as_on_a_device() as counted:
            li.solve(f, s0, inputs, KINDS[cell], rtol=0, atol=0, max_iters=count, throw=False)
        found.append(counted.count)
    each = (found[1] - found[0]) // (LATER - CUT)
    return each, found[0] - CUT * each


def iterations(cell: str, width: int, length: int) -> int:
    """By the CPU's kernels."""
    f, s0, inputs = _problem(cell, width, length)
    with torch.no_grad():
        return int(li.solve(f, s0, inputs, KINDS[cell], rtol=0, atol=1e-5).iterations.max())


def bytes_a_step(cell: str, width: int) -> float:
    """Read and written by the launches of an iteration."""
    found: list[Callable[[], Any]] = [bytes_moved.steps(rows, width)[f"{cell} iteration"][0] for rows in ROWS]
    few, many = (bytes_moved.count(run) for run in found)
    return (many.read + many.written - few.read - few.written) / (ROWS[1] - ROWS[0])


def counts(widths: tuple[int, ...], length: int) -> list[Count]:
    """Of every cell."""
    found = []
    for cell in KINDS:
        each, once = launches(cell)
        found += [Count(cell, width, bytes_a_step(cell, width), each, once, iterations(cell, width, length))
                  for width in widths]  # fmt: skip
    return found
