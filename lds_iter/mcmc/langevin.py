"""Unadjusted Langevin dynamics: MALA without its test, `x + eps W grad + sqrt(2 eps) C xi`; biased by its step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.mcmc.acceptance import MoveInfo
from lds_iter.mcmc.sampler import normal
from lds_iter.mcmc.stepped import SteppedSampler
from lds_iter.mcmc.target import LogDensity, Target
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class Langevin(SteppedSampler):
    """See `langevin`."""

    def noise(self, length: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return normal(length, like, generator)

    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        size, root = self.step_size, self._root
        before, slope = target.value_and_gradient(s)
        moved = s + root.times(size * root.transposed(slope) + math.sqrt(2 * size) * noise)
        sure = torch.ones_like(before)
        return moved, MoveInfo(sure > 0, sure, ~moved.isfinite().all(-1), torch.full_like(before, torch.nan))


@spelled
def langevin(logdensity: LogDensity, step_size: float, inverse_mass_matrix: Tensor | None = None) -> Langevin:
    """Unadjusted Langevin dynamics: every proposal of MALA is taken. Its distribution is off by O(step_size).

    Args:
        logdensity: the log density of the target up to a constant: a function of a position, or of positions with any
            leading dimensions.
        step_size: `eps` of `x + eps W grad + sqrt(2 eps) C xi`.
        inverse_mass_matrix: W, `(D)` or `(D, D)`; the identity when None.

    Raises:
        ValueError: for numbers that cannot work.

    Example:
        >>> sampler = li.mcmc.langevin(lambda x: -x.square().sum(-1) / 2, 0.1)
        >>> int(li.mcmc.sample(sampler, torch.zeros(4, 2), 500).solution.iterations.max())  # linear
        1
    """
    return Langevin(logdensity, step_size, inverse_mass_matrix)
