"""The test of Metropolis and Hastings, exact, with a derivative for the iteration to go by.

A proposal `y` is taken where `log u < log ratio`. The value is exactly `y` or exactly `x`. As a function of `x` it
jumps where the decision changes, and its derivative elsewhere knows nothing of the jump. So the derivative is that of
the soft gate `sigmoid(log ratio - log u)` in place of the hard one (a straight-through estimate): what Zoltowski, Wu,
Gonzalez, Kozachkov, Linderman use in "Parallelizing MCMC across the sequence length" (2025). The derivative decides how
fast the iteration gets there, never where.
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
        logdensity: of the position after the move; NaN for samplers that evaluate none.
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
        log_uniform: logs of uniform numbers.
        x, proposal: positions `(..., D)`.
        before, after: their log densities.
    """
    taken = log_uniform < log_ratio
    gate = torch.sigmoid(log_ratio - log_uniform)
    gate = torch.where(log_ratio.isfinite(), gate - gate.detach(), 0).unsqueeze(-1)  # zero, with a derivative
    away = torch.where(proposal.isfinite(), proposal - x, 0)
    moved = torch.where(taken.unsqueeze(-1), proposal, x) + gate * away
    rate = log_ratio.nan_to_num(nan=-torch.inf, posinf=0.0).clamp(max=0).exp()
    return moved, MoveInfo(taken, rate, ~(log_ratio > -DIVERGENT_ENERGY), torch.where(taken, after, before))
