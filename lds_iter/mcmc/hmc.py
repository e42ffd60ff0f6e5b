"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps (Duane, Kennedy, Pendleton, Roweth 1987; Neal 2011).

Written in velocities `r` in the coordinates in which the inverse mass matrix W = C C^T is the identity:
`r += eps / 2 C^T grad`, `x += eps C r`, `r += eps / 2 C^T grad`, with kinetic energy `|r|^2 / 2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lds_iter.mcmc.acceptance import MoveInfo, accept
from lds_iter.mcmc.stepped import SteppedSampler
from lds_iter.mcmc.target import LogDensity, Target
from lds_iter.methods.arguments import check_count, fix
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class HMC(SteppedSampler):
    """See `hmc`."""

    acceptance: ClassVar[float | None] = 0.8

    num_steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        fix(self, num_steps=check_count("num_steps", self.num_steps, least=1))

    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        (xi, _), size, root = noise, self.step_size, self._root
        before, slope = target.value_and_gradient(s)
        x, velocity, after = s, xi, before
        for _ in range(self.num_steps):
            velocity = velocity + size / 2 * root.transposed(slope)
            x = x + size * root.times(velocity)
            after, slope = target.value_and_gradient(x)
            velocity = velocity + size / 2 * root.transposed(slope)
        return self.tested(s, noise, before, x, velocity, after)

    def tested(
        self, s: Tensor, noise: Any, before: Tensor, x: Tensor, velocity: Tensor, after: Tensor
    ) -> tuple[Tensor, MoveInfo]:
        """Accept the end of a flight or not, by the energies at both ends."""
        xi, log_u = noise
        log_ratio = after - before + (xi.square().sum(-1) - velocity.square().sum(-1)) / 2
        return accept(log_ratio, log_u, s, x, before, after)


@spelled
def hmc(logdensity: LogDensity, step_size: float, inverse_mass_matrix: Tensor | None = None, num_steps: int = 8) -> HMC:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps.

    Args:
        logdensity: the log density of the target up to a constant: a function of a position, or of positions with any
            leading dimensions.
        step_size: of the leapfrog method.
        inverse_mass_matrix: an estimate of the covariance of the target, `(D)` or `(D, D)`; the identity when None.
        num_steps: leapfrog steps of a move.

    Raises:
        ValueError: for numbers that cannot work.

    Example:
        >>> sampler = li.mcmc.hmc(lambda x: -x.square().sum(-1) / 2, 0.3)
        >>> draws = li.mcmc.sample(sampler, torch.zeros(4, 2), 500)
        >>> bool(draws.acceptance_rate.min() > 0.9), int(draws.divergences.sum())
        (True, 0)
    """
    return HMC(logdensity, step_size, inverse_mass_matrix, num_steps)
