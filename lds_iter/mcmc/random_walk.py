"""Random-walk Metropolis: `y = x + eps C xi` (Metropolis, Rosenbluth, Rosenbluth, Teller, Teller 1953)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lds_iter.mcmc.acceptance import MoveInfo, accept
from lds_iter.mcmc.stepped import SteppedSampler
from lds_iter.mcmc.target import LogDensity, Target
from lds_iter.methods.picard import Picard
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class RandomWalk(SteppedSampler):
    """See `random_walk`."""

    acceptance: ClassVar[float | None] = 0.234

    def method(self, width: int) -> Picard:  # noqa: ARG002 - a move is x + something, or x: its Jacobian is I
        return Picard()

    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        xi, log_u = noise
        proposal = s + self.step_size * self._root.times(xi)
        before, after = target.value(s), target.value(proposal)
        return accept(after - before, log_u, s, proposal, before, after)


@spelled
def random_walk(logdensity: LogDensity, step_size: float, inverse_mass_matrix: Tensor | None = None) -> RandomWalk:
    """Random-walk Metropolis: a normal step, accepted or not.

    Args:
        logdensity: the log density of the target up to a constant: a function of a position, or of positions with any
            leading dimensions.
        step_size: the standard deviation of a step, in units of the root of the inverse mass matrix.
        inverse_mass_matrix: a covariance that steps have, `(D)` or `(D, D)`; the identity when None.

    Raises:
        ValueError: for numbers that cannot work.

    Example:
        >>> sampler = li.mcmc.random_walk(lambda x: -x.square().sum(-1) / 2, 1.0)
        >>> li.mcmc.sample(sampler, torch.zeros(4, 2), 500).positions.shape
        torch.Size([500, 4, 2])
    """
    return RandomWalk(logdensity, step_size, inverse_mass_matrix)
