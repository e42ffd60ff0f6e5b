"""Times cells of the map, from the cheapest to the dearest, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import LONG, First, alternately, first_run

LENGTHS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128)

BATCHES = (1, 8, 32)

ERROR, GRADIENT_ERROR = 5e-5, 1e-3
"""Largest difference of outputs, and relative difference of any parameter's gradient, at which a cell is timed."""

PEER, OURS = "torch.nn.GRU", "li.nn.GRU"

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of the map."""

    length: int
    width: int
    batch: int
    training: bool

    @property
    def shape(self) -> dict[str, Any]:
        """Its coordinates, as the JSON file and the page name them."""
        return {"T": self.length, "D": self.width, "batch": self.batch, "training": self.training}

    @property
    def seconds(self) -> float:
        """A rough estimate of all its runs, to order the cells and to stay within the budget.

        The peer takes some microseconds a step and its arithmetic; ours, compiled steps, some tenths of one and the
        same arithmetic (`docs/background/steps.md`).
        """
        arithmetic = 12 * self.batch * self.width**2 / 3e10
        peer = self.length * ((130e-6 + 3 * arithmetic) if self.training else (11e-6 + arithmetic))
        ours = self.length * ((1e-6 + 3 * arithmetic) if self.training else (0.3e-6 + arithmetic))
        return sum(n * (1 if n >= LONG else 1 + rounds(n)) for n in (peer, ours))

    @property
    def gib(self) -> float:
        """A rough estimate of the peak of ours: 10 tensors of the size of the states, 40 in training."""
        return self.length * self.width * self.batch * 4 * (40 if self.training else 10) / 2**30


def rounds(seconds: float) -> int:
    """Turns of contenders whose first runs took so long together."""
    return 7 if seconds < 0.05 else 3


def contenders(cell: Cell) -> tuple[dict[str, Run], li.nn.GRU]:
    """What is run, by name, the peer first; and our layer, with its defaults."""
    torch.manual_seed(0)
    theirs, ours = torch.nn.GRU(cell.width, cell.width), li.nn.GRU(cell.width, cell.width)
    ours.load_state_dict(theirs.state_dict())
    x, weights = (torch.randn(cell.length, cell.batch, cell.width) for _ in range(2))

    def runner(layer: torch.nn.Module) -> Run:
        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (layer(x)[0],)

        def step() -> tuple[Tensor, ...]:
            states = layer(x)[0]
            return states.detach(), *torch.autograd.grad((states * weights).mean(), tuple(layer.parameters()))

        return step if cell.training else forward

    return {PEER: runner(theirs), OURS: runner(ours)}, ours


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> tuple[float, float]:
    """The largest difference of the outputs, and the largest relative one of a gradient (0 without gradients)."""
    pairs = zip(found[1:], exact[1:], strict=True)
    worst = max((float((a - b).norm() / b.norm()) for a, b in pairs), default=0.0)
    return float((found[0] - exact[0]).abs().max()), worst


def passes(error: tuple[float, float]) -> bool:
    """The gate. NaN does not pass."""
    return error[0] < ERROR and error[1] < GRADIENT_ERROR


def measure(cell: Cell) -> dict[str, Any]:
    """All figures of a cell; without times where ours does not pass the gate."""
    runs, layer = contenders(cell)
    first: dict[str, First] = {name: first_run(run) for name, run in runs.items()}
    error = errors(first[OURS].result, first[PEER].result)
    if not passes(error):
        return {**cell.shape, "state": "failed the gate", "errors": error}
    seconds = {name: one.seconds for name, one in first.items()}
    timings = alternately(runs, seconds, rounds(sum(seconds.values())))
    plan = layer.last_plan
    assert plan is not None
    return {
        **cell.shape,
        "state": "timed",
        "route": plan.route.name.lower(),
        "peer_ms": timings[PEER].ms,
        "ours_ms": timings[OURS].ms,
        "ratio": timings[PEER].ms / timings[OURS].ms,
        "rounds": {name: timing.rounds for name, timing in timings.items()},
        "error": error[0],
        "gradient_error": error[1] if cell.training else None,
        "peer_peak_mib": first[PEER].peak_mib,
        "ours_peak_mib": first[OURS].peak_mib,
    }


def survey(cells: list[Cell], budget: float, memory: float) -> list[dict[str, Any]]:
    """Measure the cells, the cheapest first and small batches before large ones, within a budget of seconds and GiB."""
    begin, kept = time.perf_counter(), []
    for cell in sorted(cells, key=lambda cell: (cell.seconds * cell.batch**0.5, cell)):
        if cell.gib > memory:
            kept.append({**cell.shape, "state": "not run: memory"})
        elif time.perf_counter() - begin + cell.seconds > budget:
            kept.append({**cell.shape, "state": "not run: time"})
        else:
            kept.append(measure(cell))
            row = kept[-1]
            print(row["state"], cell.shape, f"{row['ratio']:.2f}" if "ratio" in row else "", flush=True)
    order = ("training", "batch", "T", "D")
    return sorted(kept, key=lambda row: [row[key] for key in order])
