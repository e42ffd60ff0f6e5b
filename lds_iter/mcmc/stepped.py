"""What samplers that move by a step of some size have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.mcmc.mass import Root, root_of
from lds_iter.mcmc.sampler import AbstractSampler, log_uniform, normal
from lds_iter.mcmc.target import LogDensity
from lds_iter.methods.arguments import check_number, fix


@dataclass(frozen=True)
class SteppedSampler(AbstractSampler):
    """Moves by `step_size`, in the coordinates in which the inverse mass matrix is the identity.

    Attributes:
        logdensity: of the target, up to a constant.
        step_size: of a move.
        inverse_mass_matrix: `(D)` or `(D, D)`; the identity when None.

    Raises:
        ValueError: for numbers that cannot work.
    """

    logdensity: LogDensity  # pyright: ignore[reportIncompatibleVariableOverride]
    step_size: float
    inverse_mass_matrix: Tensor | None = None
    _root: Root = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size = check_number("step_size", self.step_size, 0, math.inf, open_low=True)
        fix(self, step_size=size, _root=root_of(self.inverse_mass_matrix))

    def noise(self, length: int, like: Tensor, generator: torch.Generator | None = None) -> Any:
        """Normal numbers for the proposal, and logs of uniform ones for the test of Metropolis."""
        return normal(length, like, generator), log_uniform(length, like, generator)
