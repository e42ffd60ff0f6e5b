"""The test of Metropolis and Hastings, exact.

A proposal `y` is taken where `log u < log ratio`: the value is exactly `y` or exactly `x`, and the derivative is that
of the branch taken. It knows nothing of the jump where the decision changes. Zoltowski, Wu, Gonzalez, Kozachkov,
Linderman ("Parallelizing MCMC across the sequence length", 2025) differentiate a soft gate in its place. Measured here,
that takes as many iterations for MALA and HMC, and a third more for random walks, so it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGENT_ENERGY = 1000.0
"""A move that loses more log density than this diverges, as in Stan and BlackJAX."""


@dataclass(frozen=True)
class MoveInfo:
    """What is known of moves, each field `(...)` for positions `(..., D)`.

    Attributes:
        is_accepted: whether the proposal was taken.
        acceptance_rate: the probability with which it would be.
        is_divergent: whether its log density, or energy, is off by more than `DIVERGENT_ENERGY`, or not finite.
        logdensity: of the position after the move; NaN for samplers that do not test.
    """

    is_accepted: Tensor
    acceptance_rate: Tensor
    is_divergent: Tensor
    logdensity: Tensor


def accept(
    log_ratio: Tensor, log_uniform: Tensor, x: Tensor, proposal: Tensor, before: Tensor, after: Tensor
) -> tuple[Tensor, MoveInfo]:
    """Take proposals or stay.

    Args:
        log_ratio: log of the ratio of Metropolis and Hastings, `(...)`; NaN is a rejection.
        log_uniform: logs of uniform numbers, `(...)`.
        x, proposal: positions `(..., D)`.
        before, after: their log densities, `(...)`.

    Returns:
        The next positions, and what is known of the moves.
    """
    taken = log_uniform < log_ratio
    rate = log_ratio.nan_to_num(nan=-torch.inf, posinf=0.0).clamp(max=0).exp()
    info = MoveInfo(taken, rate, ~(log_ratio > -DIVERGENT_ENERGY), torch.where(taken, after, before))
    return torch.where(taken.unsqueeze(-1), proposal, x), info
