"""The Metropolis-adjusted Langevin algorithm: `y = x + eps W grad + sqrt(2 eps) C xi`, with `C C^T = W`.

Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations" (1996). In
the coordinates in which W is the identity the way back from y to x needs the noise
`xi' = -(xi + sqrt(eps / 2) C^T (grad_x + grad_y))`, so the ratio of the proposal densities needs no inverse of C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lds_iter.mcmc.acceptance import MoveInfo, accept
from lds_iter.mcmc.stepped import SteppedSampler
from lds_iter.mcmc.target import LogDensity, Target
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class MALA(SteppedSampler):
    """See `mala`."""

    acceptance: ClassVar[float | None] = 0.574

    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        (xi, log_u), size, root = noise, self.step_size, self._root
        before, slope = target.value_and_gradient(s)
        proposal = s + root.times(size * root.transposed(slope) + math.sqrt(2 * size) * xi)
        after, slope_after = target.value_and_gradient(proposal)
        back = xi + math.sqrt(size / 2) * root.transposed(slope + slope_after)
        log_ratio = after - before + (xi.square().sum(-1) - back.square().sum(-1)) / 2
        return accept(log_ratio, log_u, s, proposal, before, after)


@spelled
def mala(logdensity: LogDensity, step_size: float, inverse_mass_matrix: Tensor | None = None) -> MALA:
    """The Metropolis-adjusted Langevin algorithm.

    Args:
        logdensity: the log density of the target up to a constant: a function of a position, or of positions with any
            leading dimensions.
        step_size: `eps` of `x + eps W grad + sqrt(2 eps) C xi`, as BlackJAX has it.
        inverse_mass_matrix: W, `(D)` or `(D, D)`; the identity when None.

    Raises:
        ValueError: for numbers that cannot work.

    Example:
        >>> sampler = li.mcmc.mala(lambda x: -x.square().sum(-1) / 2, 0.5)
        >>> li.mcmc.sample(sampler, torch.zeros(4, 2), 500).replay().exact
        True
    """
    return MALA(logdensity, step_size, inverse_mass_matrix)
