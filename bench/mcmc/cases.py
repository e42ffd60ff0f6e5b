"""Chains whose truth is known, as the published work runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import lds_iter as li
from recipes.mcmc.problems import EightSchools, banana, mixture


@dataclass(frozen=True)
class Case:
    """A sampler, where its chains start, and what was published for it.

    Attributes:
        start: from a number of chains to positions.
        published: iterations, and for how many moves.
    """

    name: str
    sampler: li.mcmc.AbstractSampler
    start: Callable[[int], Any]
    published: str


def _far(chains: int) -> torch.Tensor:
    return torch.randn(chains, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


SCHOOLS = EightSchools()
CASES = (
    Case("mixture, MALA", li.mcmc.mala(mixture, 0.5), _far, "66 at 10,000 (one probe)"),
    Case("banana, HMC", li.mcmc.hmc(banana, 0.5, None, 8), lambda chains: torch.zeros(chains, 2).double(),
         "74 at 1,000, 139 at 100,000 (damped)"),
    Case("eight schools, Gibbs", SCHOOLS.sampler(), SCHOOLS.start, "37 and 19 at 10,000 (Newton)"),
    Case("mixture, random walk", li.mcmc.random_walk(mixture, 1.0), _far, "-"),
)  # fmt: skip

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
