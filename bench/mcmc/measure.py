"""Iterations by method: of chains, and of the leapfrog steps of a move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import lds_iter as li
from bench.mcmc.cases import CASES, LEAPFROG_METHODS, LEAPFROGS, METHODS, Case
from lds_iter.mcmc.hmc import HMC

CAP = 300
"""Iterations after which a method counts as too slow."""

CHAINS = 4
RTOL, ATOL = 1e-3, 1e-4
"""As in the published counts; times are at the library's own tolerances."""

LONG_CASES = ("mixture, MALA", "eight schools, Gibbs")
LONG_METHODS = ("TrustRegion(Newton())", "Clipped(QuasiNewton(Hutchinson()), 1)")

WIDE_METHODS = ("TrustRegion(Newton())", "Clipped(QuasiNewton(Hutchinson()), 1)", "Jacobi()")
WIDE_MOVES = 200


@dataclass(frozen=True)
class Count:
    """Iterations of one method on one case, per chain; None for a chain that `CAP` iterations did not solve."""

    case: str
    moves: int
    method: str
    iterations: list[int | None]
    acceptance: float
    published: str


AXES = "Clipped(Rotated(QuasiNewton(), axes), 1)"
"""The diagonal along the principal axes of a first solve's draws, by `TrustRegion(Newton())`, on the same noise."""


def draw(case: Case, method: li.LDSApproximation, moves: int) -> li.mcmc.Draws:
    """A chain of the same noise for every method."""
    return li.mcmc.sample(
        case.sampler, case.start(CHAINS), moves, generator=torch.Generator().manual_seed(1), method=method,
        rtol=RTOL, atol=ATOL, max_iters=CAP, throw=False,
    )  # fmt: skip


def along_axes(case: Case, moves: int) -> li.LDSApproximation:
    """What `AXES` names, for these moves."""
    states = draw(case, METHODS["TrustRegion(Newton())"], moves).solution.states
    axes = torch.linalg.eigh(torch.cov(states.flatten(0, -2).T))[1]
    return li.Clipped(li.Rotated(li.QuasiNewton(), axes), 1)


def count(case: Case, name: str, moves: int) -> Count:
    """The iterations of a method of `METHODS`, or of `AXES`."""
    draws = draw(case, along_axes(case, moves) if name == AXES else METHODS[name], moves)
    solved = (draws.solution.result == int(li.Result.SUCCESS)).tolist()
    iterations = [number if ok else None for number, ok in zip(draws.solution.iterations.tolist(), solved, strict=True)]
    return Count(case.name, moves, name, iterations, float(draws.acceptance_rate.mean()), case.published)


def counts(moves: int, long: int) -> Iterator[dict[str, Any]]:
    """Every method on `moves` moves, and the default one on `long`; the widest case on few, by three methods."""
    for case in CASES:
        wide = "31" in case.name
        for name in WIDE_METHODS if wide else (*METHODS, AXES):
            yield asdict(count(case, name, min(moves, WIDE_MOVES) if wide else moves))
        if long and case.name in LONG_CASES:
            for name in LONG_METHODS:
                yield asdict(count(case, name, long))


@dataclass(frozen=True)
class LeapfrogCount:
    """Iterations of one method on the leapfrog steps of each move, over all moves and chains, and the gate.

    Attributes:
        mismatches: decisions that differ from those of steps taken one after the other.
    """

    case: str
    steps: int
    method: str
    mean: float
    most: int
    acceptance: float
    mismatches: int


def leapfrog_counts(moves: int) -> Iterator[dict[str, Any]]:
    """Every method on the leapfrog steps of the same moves, at the library's own tolerance."""
    for case in LEAPFROGS:
        assert isinstance(case.sampler, HMC)
        exact = _in_turn(case, moves, None)
        for name, method in LEAPFROG_METHODS.items():
            found = _in_turn(case, moves, method)
            assert found.iterations is not None
            mismatches = int((found.info.is_accepted != exact.info.is_accepted).sum())
            yield asdict(LeapfrogCount(
                case.name, case.sampler.num_steps, name, float(found.iterations.double().mean()),
                int(found.iterations.max()), float(found.info.acceptance_rate.mean()), mismatches,
            ))  # fmt: skip


def _in_turn(case: Case, moves: int, method: li.LDSApproximation | None) -> li.mcmc.Turns:
    generator = torch.Generator().manual_seed(1)
    return li.mcmc.sample_in_turn(case.sampler, case.start(CHAINS), moves, generator=generator, leapfrog=method)
