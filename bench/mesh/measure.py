"""How long an iteration takes: measured on the ranks that this machine has cores for, and on twice as many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

import lds_iter as li
from bench.mesh.problems import KINDS, shared
from bench.mesh.ranks import on_ranks

FIRST, LAST = 2, 8
"""Iterations between which is timed: the first ones load code and take memory."""

METHODS = "Newton, dense", "QuasiNewton"
RANKS = 1, 2, 4

PARTS = 64, 16, 4, 1
"""Of the longest trajectory, timed each."""

SHORTEST = 16
"""Time steps: a trajectory shorter than `LAST` is solved before the timed iterations end."""


@dataclass(frozen=True)
class Case:
    """A trajectory of one sequence: the kind of transition, its length T and width D."""

    kind: str
    length: int
    width: int


def cases(most: int) -> list[Case]:
    """Three widths, each at four lengths; `most`: numbers of all matrices, which must fit into memory several times."""
    found = []
    for kind in METHODS:
        for width in 4, 16, 64:
            longest = max(SHORTEST * PARTS[0], most // (width**2 if kind == "Newton, dense" else 4 * width))
            found += [Case(kind, longest // part, width) for part in PARTS]
    return found


def seconds(group: dist.ProcessGroup | None, case: Case, rounds: int) -> float:
    """The median time of an iteration on this rank, which holds its share of the time steps.

    Raises:
        AssertionError: when the solve ends before its last iteration, so that some of them were shorter.
    """
    rank, ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    f, s0, inputs = shared(KINDS[case.kind], case.length, case.width, 1, rank, ranks)
    taken = []
    for _ in range(rounds):
        times: list[float] = []

        def look(progress: Any, times: list[float] = times) -> None:
            del progress
            times.append(time.perf_counter())

        with torch.no_grad():
            solution = li.solve(
                f, s0, inputs, KINDS[case.kind].method, mesh=group, max_iters=LAST, rtol=0, atol=0, throw=False,
                callback=look,
            )  # fmt: skip
        assert int(solution.iterations) == LAST, "the solve has converged: take derivatives further off"
        taken += [after - before for before, after in zip(times[FIRST:-1], times[FIRST + 1 :], strict=True)]
    return statistics.median(taken)


def rows(found: list[Case], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each case and number of ranks; 0 ranks is one process without a mesh."""
    for ranks in 0, *RANKS:
        answers = on_ranks(max(1, ranks), _job, found, rounds, ranks > 0)
        for case, times in zip(found, zip(*answers, strict=True), strict=True):
            yield {"ranks": ranks, **vars(case), "seconds": max(times)}


def _job(group: dist.ProcessGroup, found: list[Case], rounds: int, shares: bool) -> list[float]:
    return [seconds(group if shares else None, case, rounds) for case in found]
