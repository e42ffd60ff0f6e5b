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


@dataclass(frozen=True)
class Protocol:
    """How NCCL sends round a ring.

    Attributes:
        base: seconds of a collective besides its hops.
        near, near_of_several, far: seconds of a hop within the only node, within one of several, and between nodes.
        share, share_of_several: of a link's rate, in one node and in several.
    """

    base: float
    near: float
    near_of_several: float
    far: float
    share: float
    share_of_several: float


PROTOCOLS = (
    Protocol(3.6e-6, 0.47e-6, 1.8 * 0.47e-6, 2.7e-6, 1 / 3, 1 / 4),
    Protocol(10e-6, 1.9e-6, 1.9e-6, 4.0e-6, 0.92, 0.92),
    Protocol(8.4e-6, 3.4e-6, 3.4e-6, 9.6e-6, 1, 1),
)
"""LL, LL128 and Simple, of which NCCL takes the fastest for a message: NVIDIA/nccl, src/graph/tuning.cc at commit
01afd20."""


@dataclass(frozen=True)
class Network:
    """GPUs in nodes of `node`, in a ring through all.

    Attributes:
        node: how many GPUs.
        rate: bytes per second of the slowest link.
        later: seconds that a hop between nodes takes longer than by InfiniBand.
    """

    node: int
    rate: float
    later: float = 0

    def gather(self, ranks: int, sent: float) -> float:
        """Seconds of an all-gather to which each rank gives `sent` bytes."""
        return self._best(ranks - 1, -(-ranks // self.node) - 1, ranks, sent)

    def hop(self, ranks: int, sent: float) -> float:
        """Seconds of one message to the next rank."""
        return self._best(1, int(ranks > self.node), ranks, sent)

    def _best(self, hops: int, far: int, ranks: int, sent: float) -> float:
        """Seconds of so many hops, `far` of them between nodes, by the fastest protocol."""
        several = ranks > self.node
        return min(
            protocol.base
            + (hops - far) * (protocol.near_of_several if several else protocol.near)
            + far * (protocol.far + self.later)
            + hops * sent / (self.rate * (protocol.share_of_several if several else protocol.share))
            for protocol in PROTOCOLS
        )


NETWORKS = {
    "NVLink": Network(8, 370e9),
    "InfiniBand": Network(8, 50e9),
    "Ethernet": Network(8, 12.5e9, 20.3e-6),
}
"""Rates: NVLink 4 of an H100, 370 of 450 GB/s (NVIDIA/nccl-tests issue 212); NDR, 400 Gb/s a GPU; 100 Gb/s. A hop by
Ethernet takes 23 us: half of 46 us, an all-reduce of 8 bytes between two hosts (facebookresearch/param issue 40)."""


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
