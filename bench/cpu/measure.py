"""Times scans and whole solves with the compiled CPU kernels switched on and off."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

import lds_iter as li
from bench.common.timing import alternately, first_run
from bench.speed.measure import RESIDUAL
from lds_iter.kernels.cpu.build import SWITCH
from lds_iter.recurrence import IterationRequest

GATE = 1e-4
"""Largest difference of compiled and plain results, relative to the largest number, at which a row is timed at all."""

SCANS = [
    ("Diagonal", 100_000, 8),
    ("Diagonal", 100_000, 32),
    ("BlockDiagonal, 2x2", 100_000, 16),
    ("Dense", 10_000, 4),
    ("Dense", 10_000, 8),
    ("Dense", 10_000, 16),
    ("Dense", 10_000, 32),
    ("Dense", 1_000, 128),
]
SOLVES = [
    ("GRU", 10_000, 8),
    ("GRU", 100_000, 8),
    ("GRU", 10_000, 32),
    ("GRU", 100_000, 32),
    ("GRU", 10_000, 128),
    ("LSTM", 10_000, 8),
    ("LSTM", 10_000, 32),
    ("RNN", 10_000, 8),
    ("RNN", 10_000, 32),
]
QUASI = {"QuasiNewton()": li.QuasiNewton()}
CELLS = {  # the recurrence, its cheap method, and how many numbers of a state, and of inputs, a channel has
    "GRU": (li.nn.GRURecurrence, QUASI, 1, 3),
    "LSTM": (li.nn.LSTMRecurrence, {"BlockNewton(2)": li.BlockNewton(2)}, 2, 4),
    "RNN": (li.nn.RNNRecurrence, QUASI, 1, 1),
}


def switched(on: bool, run: Callable[[], Any]) -> Callable[[], Any]:
    """The same with compiled kernels on or off."""

    def call() -> Any:
        before = os.environ.get(SWITCH)
        os.environ[SWITCH] = str(int(on))
        try:
            return run()
        finally:
            os.environ.pop(SWITCH)
            if before is not None:
                os.environ[SWITCH] = before

    return call


def compare(run: Callable[[], torch.Tensor], rounds: int) -> dict[str, Any]:
    """Gate and time one computation, compiled and plain in turns."""
    runs = {"compiled": switched(True, run), "plain": switched(False, run)}
    first = {name: first_run(one) for name, one in runs.items()}
    results = [first[name].result for name in runs]
    error = float((results[0] - results[1]).abs().max() / results[1].abs().max())
    assert error < GATE, f"compiled and plain results differ by {error:.1e}, which is not below {GATE:g}"
    timings = alternately(runs, {name: one.seconds for name, one in first.items()}, rounds, long=10)
    return {"error": error, **{f"{name}_ms": timings[name].ms for name in runs}}


def transition(structure: str, length: int, width: int) -> tuple[li.AbstractTransition, int]:
    """A contracting transition, and how many numbers it has."""
    if structure == "Dense":
        matrix = torch.randn(length, 1, width, width) * 0.5 / width**0.5
        return li.Dense(matrix), matrix.numel()
    if structure == "Diagonal":
        diagonal = 0.9 * torch.rand(length, 1, width)
        return li.Diagonal(diagonal), diagonal.numel()
    blocks = 0.4 * torch.randn(length, 1, width // 2, 2, 2)
    return li.BlockDiagonal(blocks), blocks.numel()


def bandwidth(numbers: int, rounds: int) -> float:
    """Bytes per second of a copy, reading and writing counted, of so many float32 numbers."""
    here, there = torch.randn(numbers), torch.zeros(numbers)
    seconds = []
    for _ in range(3 * rounds):
        start = time.perf_counter()
        there.copy_(here)
        seconds.append(time.perf_counter() - start)
    return 8 * numbers / sorted(seconds)[len(seconds) // 2]


def median_ms(run: Callable[[], Any], rounds: int) -> float:
    run()
    return alternately({"it": run}, {"it": 0.0}, rounds)["it"].ms


def scans(rounds: int, scale: float) -> list[dict[str, Any]]:
    rows = []
    for structure, length, width in SCANS:
        length = max(2, int(length * scale))
        torch.manual_seed(0)
        a, numbers = transition(structure, length, width)
        b = torch.randn(length, 1, width)
        x = torch.empty_like(b)
        with torch.no_grad():
            row = compare(lambda a=a, b=b, x=x: li.linear_scan(a, b, out=x).clone(), rounds)
            ms = median_ms(switched(True, lambda a=a, x=x: li.linear_scan(a, x, out=x)), rounds)
        moved = 4 * (numbers + 2 * b.numel())
        row |= {"what": f"{structure} scan", "T": length, "D": width, "bytes": moved, "roofline_ms": ms}
        rows.append(row | {"copy": bandwidth(moved // 8, rounds)})
        print(row, flush=True)
    return rows


def solves(rounds: int, scale: float) -> list[dict[str, Any]]:
    """Whole solves of a cell, and one iteration beside the bytes that it must move: states and inputs read, states
    written."""
    rows = []
    for kind, length, width in SOLVES:
        length = max(2, int(length * scale))
        recurrence, cheap, parts, inputs = CELLS[kind]
        torch.manual_seed(0)
        module = getattr(torch.nn, kind)(width, width)
        f: Any = recurrence.from_module(module.requires_grad_(False))
        u, s0 = f.inputs(torch.randn(length, 1, width)), torch.zeros(1, parts * width)
        for name, method in ({"Newton()": li.Newton()} | cheap).items():

            def run(f: Any = f, s0: Any = s0, u: Any = u, method: Any = method) -> li.Solution:
                return li.solve(f, s0, u, method, rtol=0, atol=RESIDUAL)

            with torch.no_grad():
                solution = run()
                row = compare(lambda run=run: run().states, rounds)
                buffer = torch.cat([s0[None], solution.states + 1e-3])
                lo, hi = torch.zeros(1, dtype=torch.int64), torch.full((1,), length)
                room = torch.empty_like(buffer)
                at_hand = IterationRequest(method, u, buffer, room, s0, 0, lo, hi, rtol=0.0, atol=RESIDUAL)

                def iterate(f: Any = f, at_hand: Any = at_hand) -> Any:
                    return f.fused_iteration(at_hand)

                if switched(True, iterate)() is None:
                    raise RuntimeError("The kernels cannot be compiled here; see li.kernels.cpu.status().")
                ms = median_ms(switched(True, iterate), rounds)
            moved = 4 * (2 * parts + inputs) * length * width
            row |= {"what": f"{kind}, `{name}`", "T": length, "D": width, "bytes": moved, "roofline_ms": ms}
            rows.append(row | {"copy": bandwidth(moved // 8, rounds), "iterations": int(solution.iterations)})
            print(row, flush=True)
    return rows
