"""Measures every layer of the curves at every length that the budget allows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from bench.peers.base import AbstractPeer
from bench.peers.jax_gru import JaxGRU
from bench.peers.measure import measure
from bench.peers.ours import OurGRU
from bench.peers.problems import GRUProblem
from bench.peers.torch_gru import TorchGRU

if TYPE_CHECKING:
    pass

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
SHAPES = [(torch.nn.GRU, 8, 1), (torch.nn.GRU, 32, 1), (torch.nn.GRU, 32, 8), (torch.nn.LSTM, 8, 1)]
"""Layer, D and batch."""

LONG = 1.0

PEERS: dict[type, Sequence[AbstractPeer[Any]]] = {
    torch.nn.GRU: [OurGRU(None), TorchGRU(), JaxGRU()],
    torch.nn.LSTM: [OurGRU(None), TorchGRU()],
}


def problems(longest: int, device: str) -> list[GRUProblem]:
    """All cells, the cheapest first."""
    cells = [
        GRUProblem(length, width, batch, training, device, layer=layer)
        for length in LENGTHS
        if length <= longest
        for layer, width, batch in SHAPES
        for training in (False, True)
    ]
    return sorted(cells, key=seconds)


def seconds(problem: GRUProblem) -> float:
    """A rough estimate of all runs: torch's layer takes some microseconds a step, and runs twice or more."""
    once = problem.length * (150e-6 if problem.training else 13e-6) * max(1, problem.batch * problem.width / 128)
    return once * (2 if once > LONG else 6) + 10


def gib(problem: GRUProblem) -> float:
    """A rough estimate of the peak: in training torch keeps some 6 KiB a step for its graph, besides the numbers."""
    numbers = problem.length * problem.width * problem.batch
    return (numbers * 4 * (40 if problem.training else 10) + problem.length * (6144 if problem.training else 0)) / 2**30


def survey(cells: Sequence[GRUProblem], budget: float, memory: float, rounds: int) -> list[dict[str, Any]]:
    """Measure what fits a budget of seconds and GiB."""
    begin, tables = time.perf_counter(), []
    for problem in cells:
        shape = {"length": problem.length, "width": problem.width, "batch": problem.batch,
                 "training": problem.training, "layer": problem.layer.__name__}  # fmt: skip
        if gib(problem) > memory:
            tables.append({**shape, "state": "memory", "rows": []})
        elif time.perf_counter() - begin + seconds(problem) > budget:
            tables.append({**shape, "state": "time", "rows": []})
        else:
            table = measure(problem, PEERS[problem.layer], rounds=rounds, long=LONG)
            tables.append({**shape, "state": "timed", "rows": table["rows"]})
        print(tables[-1], flush=True)
    return tables
