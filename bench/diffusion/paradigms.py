"""The algorithm of diffusers' `StableDiffusionParadigmsPipeline`, on any network: the peer of `bench.diffusion`.

Restated line by line from `diffusers/pipelines/deprecated/stable_diffusion_variants` (Apache-2.0; ParaDiGMS, Shih et
al., NeurIPS 2023), without the text encoder and the decoder: Picard iteration in a window of `parallel` steps that
slides as soon as the leading steps have moved by less than `tolerance`, measured in units of the scheduler's noise. The
scheduler is diffusers' own `DDIMParallelScheduler` or `DDPMParallelScheduler`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.sampled import Work


def paradigms(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    scheduler: Any,
    latents: Tensor,
    noises: Tensor | None = None,
    *,
    parallel: int,
    tolerance: float,
) -> tuple[Tensor, Work]:
    """The final samples, and rounds and evaluations.

    Args:
        network: outputs for images `(N, *shape)`, timesteps `(N,)` and places in the batch `(N,)`.
        scheduler: a parallel scheduler of diffusers after `set_timesteps`.
        latents: the noise to start from, `(B, *shape)`.
        noises: what a stochastic scheduler adds after each step, `(T, B, *shape)`.
        parallel: the window.
        tolerance: as the pipeline's, 0.1 there.
    """
    times = scheduler.timesteps
    length, batch = len(times), len(latents)
    parallel = min(parallel, length)
    buffer, work = torch.stack([latents] * (length + 1)), Work()
    inverse = _inverse_variance(scheduler, latents[0].numel())
    begin, end = 0, parallel
    while begin < length:
        block, block_times = buffer[begin:end], times[begin:end, None].repeat(1, batch).flatten()
        places = torch.arange(batch).repeat(end - begin)
        output = network(block.flatten(0, 1), block_times, places)
        work.rounds, work.evaluations = work.rounds + 1, work.evaluations + len(output)
        stepped = scheduler.batch_step_no_noise(output, block_times, block.flatten(0, 1)).view_as(block)
        moved = (stepped - block).cumsum(0)
        if noises is not None:
            moved = moved + noises[begin:end].cumsum(0)
        new = buffer[begin][None] + moved
        change = (new - buffer[begin + 1 : end + 1]).flatten(2).norm(dim=-1).square()
        ratio = torch.nn.functional.pad(change * inverse[begin + 1 : end + 1], (0, 0, 0, 1), value=1e9)
        first = int((ratio > tolerance**2).any(1).int().argmax())
        new_begin = begin + min(1 + first, parallel)
        new_end = min(new_begin + parallel, length)
        buffer[begin + 1 : end + 1] = new
        buffer[end : new_end + 1] = buffer[end][None]
        begin, end = new_begin, new_end
    return buffer[-1], work


def _inverse_variance(scheduler: Any, numbers: int) -> Tensor:
    """One over the scheduler's variance at each step, per number of a sample; after the last step over zero."""
    variances = [float(scheduler._get_variance(time)) for time in scheduler.timesteps]
    return 1 / torch.tensor([*variances, 0.0])[:, None] / numbers
