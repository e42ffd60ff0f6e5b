"""A model of the time of an iteration, fitted to this machine, and with the figures of GPUs and links.

    operations t_launch + bytes / memory + flops / compute + hops t_hop + sent / link

All factors on the left of each product are counted (`work`, `counted`). An all-gather goes round a ring of all ranks,
`P - 1` hops, each with the numbers of one rank; the state goes one hop. A rank also scans the maps of those before it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch

from bench.mesh.counted import NUMBER_BYTES, formula
from bench.mesh.network import Network
from bench.mesh.problems import KINDS
from bench.mesh.work import Work


@dataclass(frozen=True)
class Costs:
    """Seconds: of one operation, a byte of memory, a floating-point operation, a hop, a byte on a link."""

    launch: float
    memory: float
    flop: float
    hop: float
    link: float


Amounts = tuple[float, float, float, float, float]
"""How much of each of `Costs` an iteration takes, in their order."""


def local(work: Work, length: float, batch: int = 1) -> Amounts:
    """Of one rank's own `length` time steps of so many sequences. `work` is of one sequence."""
    return work.launched(length), batch * work.moved(length), batch * length * work.flops_a_step, 0, 0


def messages(kind: str, width: int, batch: int, ranks: int) -> Amounts:
    """Of what ranks tell each other, over links that are all alike."""
    if ranks < 2:
        return 0, 0, 0, 0, 0
    frontier, maps, state = formula(KINDS[kind], width, batch)
    others = ranks - 1
    return 0, 2 * others * maps, 0, 2 * others + 1, others * (frontier + maps) + state


def seconds(amounts: Amounts, costs: Costs) -> float:
    """A time from amounts."""
    return sum(amount * cost for amount, cost in zip(amounts, astuple(costs), strict=True))


def amounts(row: dict[str, Any], cores: int, work_of: Callable[[dict[str, Any]], Work]) -> Amounts:
    """Of a measured row. Where ranks share cores, all that they do takes as many times as long."""
    ranks = max(1, row["ranks"])
    work = replace(work_of(row), scans=1) if ranks == 1 else work_of(row)  # the first rank scans once
    here = local(work, row["length"] / ranks)
    there = messages(row["kind"], row["width"], 1, row["ranks"])
    times = max(1.0, ranks / cores)
    launched, moved, flops, hops, sent = (times * (a + b) for a, b in zip(here, there, strict=True))
    return launched, moved, flops, hops, sent


def fit(found: Sequence[Amounts], measured: Sequence[float]) -> Costs:
    """The costs, none of them below zero, that make the relative errors smallest in the mean square."""
    wanted = torch.tensor(measured, dtype=torch.float64)
    matrix = torch.tensor(found, dtype=torch.float64) / wanted.unsqueeze(-1)
    scale = matrix.abs().amax(0).clamp(min=1e-300)
    best, least = torch.zeros(5, dtype=torch.float64), float("inf")
    for size in range(1, 6):  # every choice of the costs that are not zero: five are few
        for chosen in itertools.combinations(range(5), size):
            columns = (matrix / scale)[:, list(chosen)]
            answer = torch.linalg.lstsq(columns, torch.ones_like(wanted), driver="gelsd").solution
            error = float((columns @ answer - 1).square().sum())
            if bool((answer >= 0).all()) and error < least:
                best, least = torch.zeros(5, dtype=torch.float64), error
                best[list(chosen)] = answer / scale[list(chosen)]
    return Costs(*best.tolist())


@dataclass(frozen=True)
class Check:
    """Errors of the model relative to what was measured: the median and the largest, of so many rows."""

    rows: int
    median: float
    largest: float

    @staticmethod
    def of(found: Sequence[Amounts], measured: Sequence[float], costs: Costs) -> Check:
        errors = [abs(seconds(a, costs) / m - 1) for a, m in zip(found, measured, strict=True)]
        return Check(len(errors), statistics.median(errors), max(errors))


H100 = Costs(launch=5e-6, memory=1 / 3.0e12, flop=1 / 67e12, hop=0, link=0)
"""From Python, as nothing of a mesh is in a graph; a copy's rate, measured; the data sheet's float32 without TF32."""

H100_BYTES = 80e9

GPU_SCAN = {"Newton, dense": 2.03, "QuasiNewton": 1.01}
"""How many times the bytes of a scan its Triton kernel moves: bench/results/kernel-bytes.json."""

GPU_SCAN_OPERATIONS = 3


def on_gpus(kind: str, width: int, work: Work, length: float, batch: int, ranks: int, network: Network | None) -> float:
    """Seconds of an iteration on `ranks` GPUs; `network` None: one GPU without a mesh."""
    launched, moved, flops, *_ = local(work, length / ranks, batch)
    rows = batch * length / ranks
    moved += rows * work.scans * work.scan_bytes_a_step * (GPU_SCAN[kind] - 1)
    flops += rows * work.scans * (4 * width**3 if kind == "Newton, dense" else 0)
    launched += work.scans * GPU_SCAN_OPERATIONS
    if network is None:
        return seconds((launched, moved, flops, 0, 0), H100)
    frontier, maps, state = formula(KINDS[kind], width, batch)
    told = network.gather(ranks, frontier) + network.gather(ranks, maps) + network.hop(ranks, state)
    carried = 2 * (ranks - 1) * maps
    return seconds((launched + GPU_SCAN_OPERATIONS, moved + carried, flops, 0, 0), H100) + told


def fits(work: Work, width: int, length: float, batch: int, ranks: int) -> bool:
    """Whether an iteration, and as many inputs as states, have room in the memory of the GPUs without a window."""
    return batch * length / ranks * (work.alive_a_step + NUMBER_BYTES * width) <= H100_BYTES
