"""Measures one iteration and the rates of the machine that bound it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common import traffic
from bench.common.timing import waiting
from lds_iter.nn import GRURecurrence


@dataclass(frozen=True)
class Case:
    """A method on a GRU, and after how many iterations its solves are cut off: before it has converged."""

    method: li.LDSApproximation
    structure: Callable[[traffic.Cell], traffic.Structure]
    width: int
    length: int
    batch: int = 1
    few: int = 1
    more: int = 3


WIDE = [(8, 10_000, 1), (8, 100_000, 1), (32, 10_000, 8), (32, 100_000, 1), (128, 10_000, 1)]

CASES = [
    *(Case(li.Jacobi(), traffic.zero, width, length, few=2, more=8) for width, length in [(8, 100_000), (32, 100_000)]),
    *(Case(li.QuasiNewton(), traffic.diagonal, width, length, batch, few=1, more=5) for width, length, batch in WIDE),
    *(Case(li.Newton(), traffic.dense, width, length) for width, length in [(4, 100_000), (8, 100_000), (16, 20_000)]),
]


@dataclass(frozen=True)
class Rates:
    """Of the device: bytes per second of a copy, out of memory and out of cache; sigmoids and tanhs per second."""

    copy: float
    cached_copy: float
    special: float


def seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """The median time of a call, after one that warms up."""
    waited, taken = waiting(run, device), []
    waited()
    for _ in range(rounds):
        start = time.perf_counter()
        waited()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def copy_rate(numbers: int, device: str, rounds: int) -> float:
    """Bytes read and written per second by a copy of so many float32 numbers; small ones are copied many times."""
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    repeats = max(1, (1 << 24) // numbers)

    def copies() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return 8 * numbers * repeats / seconds(copies, device, rounds)


def special_rate(device: str, rounds: int) -> float:
    """Evaluations of sigmoid and tanh per second, in the proportion of a GRU (two to one), out of cache on a CPU."""
    numbers = 1 << (16 if torch.device(device).type == "cpu" else 24)
    x, out = torch.randn(numbers, device=device), torch.empty(numbers, device=device)

    def evaluate() -> None:
        for function in (torch.sigmoid, torch.sigmoid, torch.tanh) * 8:
            function(x, out=out)

    return 24 * numbers / seconds(evaluate, device, rounds)


def product_rate(width: int, device: str, rounds: int) -> float:
    """Operations per second of the products of the step: many rows of `width` numbers times `width x width`."""
    rows = max(1024, (1 << 18) // width)
    x, weight = torch.randn(rows, width, device=device), torch.randn(width, width, device=device)
    out = torch.empty(rows, width, device=device)
    return 2 * rows * width**2 / seconds(lambda: torch.mm(x, weight, out=out), device, rounds)


def rates(device: str, rounds: int, numbers: int = 1 << 26) -> Rates:
    """Measure them. The cache's copy is of 512 KiB in all; on a GPU that is its L2."""
    return Rates(copy_rate(numbers, device, rounds), copy_rate(1 << 16, device, rounds), special_rate(device, rounds))


def per_iteration(case: Case, device: str, rounds: int) -> tuple[float, float]:
    """Seconds of an iteration, and the error of the longer of the two solves.

    Raises:
        AssertionError: when the longer solve is not closer to `torch.nn.GRU`.
    """
    torch.manual_seed(0)
    module = torch.nn.GRU(case.width, case.width).to(device)
    x = torch.randn(case.length, case.batch, case.width, device=device)
    f, s0 = GRURecurrence.from_module(module), torch.zeros(case.batch, case.width, device=device)
    with torch.no_grad():
        inputs, exact = f.inputs(x), module(x)[0]

        def solve(iterations: int) -> Tensor:
            return li.solve(f, s0, inputs, case.method, rtol=0, atol=0, max_iters=iterations, throw=False).states

        errors = [float((solve(count) - exact).abs().max()) for count in (case.few, case.more)]
        assert errors[1] < errors[0], f"{case}: the error grew from {errors[0]:.1e} to {errors[1]:.1e}"
        few, more = (seconds(lambda n=n: solve(n), device, rounds) for n in (case.few, case.more))
    return (more - few) / (case.more - case.few), errors[1]


def measure(case: Case, machine: Rates, device: str, rounds: int) -> dict[str, Any]:
    """A row: counts, floors and the measured time, in milliseconds."""
    cell = traffic.gru(case.width)
    structure = case.structure(cell)
    count, rows = traffic.iteration(cell, structure), case.length * case.batch
    taken, error = per_iteration(case, device, rounds)
    floors = {
        "memory": 4 * rows * count.fused / machine.copy,
        "products": rows * count.operations / product_rate(case.width, device, rounds),
        "special": rows * count.special / machine.special,
    }
    return {
        "method": f"{type(case.method).__name__}()", "structure": structure.name, "T": case.length, "D": case.width,
        "batch": case.batch, "fused_mb": 4e-6 * rows * count.fused, "staged_mb": 4e-6 * rows * count.staged,
        "floor_ms": {name: 1e3 * value for name, value in floors.items()},
        "ms": 1e3 * taken, "error": error,
    }  # fmt: skip
