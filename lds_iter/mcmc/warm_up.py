"""Warm-up, one move after the other: step size by dual averaging, and the scales of the target; then frozen.

Step sizes follow Hoffman and Gelman, "The No-U-Turn Sampler" (JMLR 2014), section 3.2. Scales are variances of the
draws in windows that double, with Stan's shrinkage. Chains share both. Adapting changes the recurrence at every move,
so this part is sequential by nature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.mcmc.sampler import AbstractSampler
from lds_iter.methods.arguments import check_count, check_number
from lds_iter.methods.spelling import spelled

SHRINKAGE, T0, KAPPA = 0.05, 10.0, 0.75
"""Gamma, t0 and kappa of dual averaging."""

FIRST_SHARE, LAST_SHARE, FIRST_WINDOW = 0.15, 0.1, 25
"""Shares of the moves that adapt the step size alone, and the draws of the first window of variances."""


@dataclass(frozen=True)
class DualAveraging:
    """The state of dual averaging of a logarithm.

    Attributes:
        centre: what it shrinks to.
        count: of moves.
        error: the averaged error of the acceptance rate.
        log_size: the logarithm for the next move.
        mean: the average of those, to be frozen.
    """

    centre: float
    count: int
    error: float
    log_size: float
    mean: float

    def after(self, acceptance: float, wanted: float) -> DualAveraging:
        """After a move with this acceptance rate."""
        count = self.count + 1
        error = self.error + (wanted - acceptance - self.error) / (count + T0)
        log_size = self.centre - math.sqrt(count) / SHRINKAGE * error
        weight = count**-KAPPA
        return DualAveraging(self.centre, count, error, log_size, weight * log_size + (1 - weight) * self.mean)


def begin(step_size: float) -> DualAveraging:
    """From a first step size; ten times as much is tried first."""
    return DualAveraging(math.log(10 * step_size), 0, 0.0, math.log(step_size), 0.0)


@spelled
def warm_up(
    sampler: AbstractSampler,
    x0: Any,
    num_steps: int,
    chains: int | None = None,
    *,
    generator: torch.Generator | None = None,
    acceptance: float | None = None,
) -> tuple[AbstractSampler, Any]:
    """Adapt a sampler's step size and the diagonal of its inverse mass matrix, one move after the other.

    Args:
        sampler: with an acceptance test: `random_walk`, `mala` or `hmc`. What it was made with is the start.
        x0: where chains start: a tensor `(chains, ...)` or a pytree of them; one position when `chains` is given.
        num_steps: moves of the warm-up.
        chains: how many chains start from `x0`; None where `x0` leads with the chains.
        generator: of the noise, on the device of `x0`; torch's own when None.
        acceptance: the mean acceptance rate to aim at; when None 0.234 for `random_walk`, 0.574 for `mala`, 0.8 for
            `hmc`.

    Returns:
        The adapted sampler, which changes no more, and the positions reached, `(chains, ...)`.

    Raises:
        TypeError, ValueError: for arguments that cannot work, and samplers that accept every move.

    Example:
        >>> sampler, x = li.mcmc.warm_up(li.mcmc.mala(lambda x: -(x / 5).square().sum(-1), 0.1), torch.zeros(4, 2), 300)
        >>> draws = li.mcmc.sample(sampler, x, 1000)
        >>> bool((draws.acceptance_rate > 0.4).all())
        True
    """
    wanted = sampler.acceptance if acceptance is None else check_number("acceptance", acceptance, 0, 1, open_low=True)
    if wanted is None:
        raise TypeError(f"`sampler` must have a step size to adapt, got {type(sampler).__name__}, which has none.")
    check_count("num_steps", num_steps, least=1)
    if chains is not None:
        x0 = pytree.tree_map(lambda leaf: leaf.expand(chains, *leaf.shape), x0)
    with torch.no_grad():
        chain = sampler.bind(x0, chains=True)
        s, averaging, seen = chain.start, begin(sampler.step_size), []  # pyright: ignore[reportAttributeAccessIssue]
        ends = window_ends(num_steps)
        for count in range(1, num_steps + 1):
            sampler = replace(sampler, step_size=math.exp(averaging.log_size))  # pyright: ignore[reportArgumentType]
            noise = pytree.tree_map(lambda leaf: leaf[0], sampler.noise(1, s, generator))
            s, info = sampler.move(chain.target, s, noise)
            averaging = averaging.after(float(info.acceptance_rate.mean()), wanted)
            if FIRST_SHARE * num_steps < count <= (1 - LAST_SHARE) * num_steps:
                seen.append(s)
            if count in ends:
                scales = variances(torch.stack(seen))
                sampler = replace(sampler, inverse_mass_matrix=scales)  # pyright: ignore[reportCallIssue, reportArgumentType]
                averaging, seen = begin(math.exp(averaging.mean)), []
        frozen = replace(sampler, step_size=math.exp(averaging.mean))  # pyright: ignore[reportArgumentType]
    return frozen, chain.target.packing.unpack(s)


def window_ends(num_steps: int) -> set[int]:
    """The moves after which variances are taken: windows double, and the last one takes what is left."""
    first, last = math.ceil(FIRST_SHARE * num_steps), math.floor((1 - LAST_SHARE) * num_steps)
    ends, width, end = set(), FIRST_WINDOW, first + FIRST_WINDOW
    while end <= last:
        if end + 2 * width > last:
            end = last
        ends.add(end)
        width *= 2
        end += width
    return ends


def variances(draws: Tensor) -> Tensor:
    """Of draws `(n, chains, D)`, shrunk as Stan does: `(D)`."""
    flat = draws.flatten(0, 1)
    count = len(flat)
    return count / (count + 5) * flat.var(0) + 1e-3 * 5 / (count + 5)
