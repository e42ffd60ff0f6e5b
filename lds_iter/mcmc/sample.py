"""All draws of all chains at once: a sampler's recurrence, solved in parallel over the chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.guesses import repeat_initial
from lds_iter.loop.state import AbstractStrategy
from lds_iter.mcmc.draws import Draws
from lds_iter.mcmc.sampler import AbstractSampler, chain_and_noise
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.rules import AbstractRule
from lds_iter.methods.spelling import spelled
from lds_iter.solution import Progress
from lds_iter.solve import solve


@spelled
def sample(
    sampler: AbstractSampler,
    x0: Any,
    num_samples: int,
    chains: int | None = None,
    *,
    generator: torch.Generator | None = None,
    method: LDSApproximation | AbstractStrategy | None = None,
    guess: Any = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
    progress: bool = False,
    callback: Callable[[Progress], object] | None = None,
    stop: AbstractRule | Callable[[Progress], Tensor] | None = None,
    throw: bool = True,
) -> Draws:
    """Draw from all chains, all moves at once. The chain is that of the same noise, one move after the other.

    All noise is drawn before; no warm-up is made (see `warm_up`). Draws carry no gradient.

    Args:
        sampler: such as `li.mcmc.hmc(logdensity, 0.1)`.
        x0: where chains start: a tensor `(chains, ...)` or a pytree of them; one position when `chains` is given.
        num_samples: moves of a chain, T.
        chains: how many chains start from `x0`; None where `x0` leads with the chains.
        generator: of the noise, on the device of `x0`; torch's own when None.
        method: the LDS approximation. When None `TrustRegion(Newton())` up to 64 numbers a position, and above, where
            Jacobians are too large, `Clipped(QuasiNewton(Hutchinson()), 1)`; `Picard()` for a random walk, which is
            Newton's method there.
        guess: where the iteration starts, as `solve` has it, on positions in one tensor.
        rtol, atol, max_iters, window, progress, callback, stop, throw: as `solve` has them.

    Returns:
        `Draws`.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
        SolveError: a chain did not converge; it carries the solution reached.

    Example:
        >>> sampler = li.mcmc.mala(lambda x: -x.square().sum(-1) / 2, 0.5)
        >>> draws = li.mcmc.sample(sampler, torch.zeros(2), 1000, chains=4)
        >>> draws.positions.shape, draws.solution.converged
        (torch.Size([1000, 4, 2]), True)
    """
    chain, noise = chain_and_noise(sampler, x0, num_samples, chains, generator)
    with torch.no_grad():
        solution = solve(
            chain, chain.start, noise, sampler.method(chain.start.shape[-1]) if method is None else method, guess=guess,
            rtol=rtol, atol=atol, max_iters=max_iters, window=window, progress=progress, callback=callback, stop=stop,
            throw=throw,
        )  # fmt: skip
        before = torch.cat([chain.start.unsqueeze(0), solution.states[:-1]])
        info = sampler.move(chain.target, before, noise)[1]
        settled = repeated(chain.start, solution.states, info.is_accepted)
    return Draws(chain.target.packing.unpack(settled), info, solution, noise, chain)


def repeated(start: Tensor, states: Tensor, is_accepted: Tensor) -> Tensor:
    """States in which a rejected move repeats the position before it exactly, not to the tolerance of the solve.

    Ranks, of which effective sample sizes are made, tell equal numbers from nearly equal ones.

    Args:
        start: `(chains, D)`.
        states: `(T, chains, D)`.
        is_accepted: `(T, chains)`.
    """
    times = torch.arange(1, len(states) + 1, device=states.device).unsqueeze(-1)
    last = torch.where(is_accepted, times, 0).cummax(0).values
    return torch.cat([start.unsqueeze(0), states]).gather(0, last.unsqueeze(-1).expand_as(states))
