"""Iterations by method, and times beside the chain taken one move after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import lds_iter as li
from bench.mcmc.cases import CASES, METHODS, Case

CAP = 300
"""Iterations after which a method counts as too slow."""

CHAINS = 4
RTOL, ATOL = 1e-3, 1e-4
"""As in the published counts, for the counts; times are at the library's own tolerances."""


@dataclass(frozen=True)
class Count:
    """Iterations of one method on one case, per chain; None for a chain that `CAP` iterations did not solve."""

    case: str
    moves: int
    method: str
    iterations: list[int | None]
    acceptance: float
    published: str


def count(case: Case, name: str, moves: int) -> Count:
    """By the same noise for every method."""
    draws = li.mcmc.sample(
        case.sampler, case.start(CHAINS), moves, generator=torch.Generator().manual_seed(1), method=METHODS[name],
        rtol=RTOL, atol=ATOL, max_iters=CAP, throw=False,
    )  # fmt: skip
    solved = (draws.solution.result == int(li.Result.SUCCESS)).tolist()
    iterations = [number if ok else None for number, ok in zip(draws.solution.iterations.tolist(), solved, strict=True)]
    return Count(case.name, moves, name, iterations, float(draws.acceptance_rate.mean()), case.published)


def counts(moves: int, long: int) -> Iterator[dict[str, Any]]:
    """Every method on `moves` moves, and the default one on `long`."""
    for case in CASES:
        for name in METHODS:
            yield asdict(count(case, name, moves))
        if long and "random walk" not in case.name and "banana" not in case.name:
            yield asdict(count(case, "TrustRegion(Newton())", long))


@dataclass(frozen=True)
class Time:
    """Seconds of all moves of all chains, in parallel and one after the other, and the gate that they passed.

    Attributes:
        mismatches: decisions that differ; a time counts only with 0.
        difference: the largest one of positions.
    """

    case: str
    moves: int
    chains: int
    method: str
    iterations: int
    parallel: float
    sequential: float
    mismatches: int
    difference: float


def times(moves: int) -> Iterator[dict[str, Any]]:
    """The default method, the best diagonal and windows, against the loop; one run each, after a short one."""
    for case in CASES[:3]:
        for name in ("TrustRegion(Newton())", "Newton()", "Clipped(QuasiNewton(Hutchinson()), 1)"):
            arguments: dict[str, Any] = {"method": METHODS[name], "max_iters": CAP, "throw": False}
            li.mcmc.sample(case.sampler, case.start(CHAINS), 50, **arguments)
            begin = time.perf_counter()
            draws = li.mcmc.sample(
                case.sampler, case.start(CHAINS), moves, generator=torch.Generator().manual_seed(1), **arguments
            )
            parallel = time.perf_counter() - begin
            begin = time.perf_counter()
            replay = draws.replay()
            yield asdict(Time(
                case.name, moves, CHAINS, name, int(draws.solution.iterations.max()), parallel,
                time.perf_counter() - begin, int(replay.mismatches.sum()), float(replay.difference.max()),
            ))  # fmt: skip
