"""Recurrent layers: against cuDNN over T, D and batch, DEER's table, training steps, memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import lds_iter as li
from bench.gpu.stages.base import Figures, NotHere, Rows, Where
from bench.peers.base import AbstractPeer
from bench.peers.flashrnn import FlashRNN
from bench.peers.jax_gru import JaxGRU
from bench.peers.measure import measure
from bench.peers.ours import OurGRU
from bench.peers.problems import GRUProblem
from bench.peers.step_loop import StepLoop
from bench.peers.torch_gru import TorchGRU

ROUNDS = 5
LONG = 1.0
"""Seconds from which a run is not repeated."""

TINY_LENGTH = 40


def against_cudnn(where: Where) -> Rows:
    """GRUs, forward: the corners that decide first, then the rest of the grid."""
    lengths, widths, batches = (10_000, 100_000, 1_000, 1_000_000), (8, 32, 64, 1, 2), (1, 16, 2)
    grid = sorted(itertools.product(enumerate(batches), enumerate(lengths), enumerate(widths)), key=_value)
    problems = [GRUProblem(length, width, batch) for (_, batch), (_, length), (_, width) in grid]
    return _rows(where, problems, [OurGRU(li.QuasiNewton()), OurGRU(li.Newton()), TorchGRU(), FlashRNN()])


def _value(place: tuple[tuple[int, int], ...]) -> tuple[int, tuple[int, ...]]:
    """Diagonal by diagonal, from the most telling corner of the grid."""
    ranks = tuple(rank for rank, _ in place)
    return sum(ranks), ranks


def deer(where: Where) -> Rows:
    """Lim et al., "Parallelizing non-linear sequential models over the sequence length", ICLR 2024.

    On a V100 138 times faster than a loop in JAX at T = 10,000, and 1,122 times at T = 100,000. That loop is here too,
    in rows of its own: two libraries in one process may hold different versions of cuDNN.
    """
    problems = [GRUProblem(length, 1, 2) for length in (10_000, 100_000, 1_000_000)]
    found = _rows(where, problems, [OurGRU(li.Newton()), TorchGRU(), StepLoop()])
    beside = _rows(where, problems[:2], [OurGRU(li.Newton()), JaxGRU()])
    return found | {f"{name}, beside a loop in JAX": row for name, row in beside.items()}


def training(where: Where) -> Rows:
    """Forward and backward through 17,984 steps of 32 channels."""
    problems = [GRUProblem(17_984, 32, batch, training=True) for batch in (4, 1, 16)]
    return _rows(where, problems, [OurGRU(li.QuasiNewton()), OurGRU(li.Newton()), OurGRU(None), TorchGRU()])


def memory(where: Where) -> Rows:
    """Peaks of a million steps, forward and training."""
    problems = [
        GRUProblem(1_000_000, 32, 1, training=training, gradient_gate=1e-2)  # sums of a million terms in float32
        for training in (False, True)
    ]
    return _rows(where, problems, [OurGRU(li.QuasiNewton()), TorchGRU()], rounds=1)


def _rows(
    where: Where, problems: Sequence[GRUProblem], peers: Sequence[AbstractPeer[Any]], rounds: int = ROUNDS
) -> Rows:
    def name(problem: GRUProblem) -> str:
        size = f"T = {problem.length:,}, D = {problem.width}, batch {problem.batch}"
        return size + (", training" if problem.training else "")

    return {name(problem): partial(_measured, where, problem, peers, rounds) for problem in problems}


def _measured(where: Where, problem: GRUProblem, peers: Sequence[AbstractPeer[Any]], rounds: int) -> Figures:
    """All contenders in turns; they have passed their gate first (see `bench.peers.measure`)."""
    length = where.size(problem.length, TINY_LENGTH)
    needed = 4 * problem.length * problem.width * problem.batch * (40 if problem.training else 16)
    if where.device == "cuda" and torch.cuda.mem_get_info()[0] < needed:
        raise NotHere(f"needs {needed >> 30} GiB of memory")
    short = dataclasses.replace(problem, length=length, device=where.device)
    table = measure(short, peers, rounds=1 if where.tiny else rounds, long=LONG)
    return {**table, "line": "; ".join(_line(row) for row in table["rows"])}


def _line(row: dict[str, Any]) -> str:
    if "ms" not in row:
        return f"{row['peer']}: {row['state']}"
    count = "" if row.get("iterations") is None else f" ({row['iterations']})"
    return f"{row['peer']} {row['ms']:.3g} ms{count}"
