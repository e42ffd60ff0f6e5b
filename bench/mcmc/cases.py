"""Chains whose truth is known, as the published work runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import lds_iter as li
from recipes.mcmc.problems import EightSchools, banana, breast_cancer, logistic_regression, mixture


@dataclass(frozen=True)
class Case:
    """A sampler, where its chains start, and what was published for it.

    Attributes:
        start: from a number of chains to positions.
        published: iterations, and for how many moves.
        gradients: of the log density that a move takes; 0 for a sampler that takes none.
        variances: of the target, for those whose chains forget their start within the moves of the bench.
        timed: moves of the bench of times; 0 leaves the case out.
    """

    name: str
    sampler: li.mcmc.AbstractSampler
    start: Callable[[int], Any]
    published: str
    gradients: int = 0
    variances: tuple[float, ...] | None = None
    timed: int = 0


def _far(chains: int) -> torch.Tensor:
    return torch.randn(chains, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _zeros(width: int) -> Callable[[int], torch.Tensor]:
    return lambda chains: torch.zeros(chains, width, dtype=torch.float64)


@functools.cache
def _cancer() -> Callable[[torch.Tensor], torch.Tensor]:
    return logistic_regression(*breast_cancer())


SCHOOLS = EightSchools()
CASES = (
    Case("mixture, MALA", li.mcmc.mala(mixture, 0.5), _far, "66 at 10,000 (one probe)", 2, (5.0, 5.0), 10_000),
    Case("eight schools, Gibbs", SCHOOLS.sampler(), SCHOOLS.start, "37 and 19 at 10,000 (Newton)", timed=10_000),
    Case("banana, HMC", li.mcmc.hmc(banana, 0.5, None, 8), _zeros(2), "74 at 1,000, 139 at 100,000 (damped)", 9, None,
         2_000),
    Case("mixture, random walk", li.mcmc.random_walk(mixture, 1.0), _far, "-"),
    Case("logistic regression of 31 weights, HMC", li.mcmc.hmc(lambda x: _cancer()(x), 0.05, None, 4), _zeros(31), "-"),
)  # fmt: skip

LEAPFROGS = (
    Case("mixture, HMC", li.mcmc.hmc(mixture, 0.1, None, 64), _far, "-"),
    Case("banana, HMC", li.mcmc.hmc(banana, 0.2, None, 64), _zeros(2), "-"),
    Case("logistic regression of 31 weights, HMC", li.mcmc.hmc(lambda x: _cancer()(x), 0.02, None, 64), _zeros(31),
         "-"),
)  # fmt: skip
"""Moves of many leapfrog steps, for their parallel solution inside of a chain taken in turn."""

LEAPFROG_METHODS: dict[str, li.LDSApproximation] = {
    "Newton()": li.Newton(),
    "BlockNewton(2)": li.BlockNewton(2),
    "ProbedBlocks(2)": li.mcmc.ProbedBlocks(2),
    "Picard()": li.Picard(),
}

METHODS: dict[str, li.LDSApproximation] = {
    "TrustRegion(Newton())": li.TrustRegion(li.Newton()),
    "Newton()": li.Newton(),
    "Clipped(Newton(), 1)": li.Clipped(li.Newton(), 1),
    "Damped(Newton(), 0.45)": li.Damped(li.Newton(), 0.45),
    "QuasiNewton()": li.QuasiNewton(),
    "Clipped(QuasiNewton(Hutchinson()), 1)": li.Clipped(li.QuasiNewton(li.Hutchinson()), 1),
    "Picard()": li.Picard(),
    "Jacobi()": li.Jacobi(),
}
