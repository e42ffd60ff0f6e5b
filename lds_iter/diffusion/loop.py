"""The sequential loop of a diffusers pipeline: model, step, model, step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.network import Network


def step_through(
    scheduler: Any,
    step: Callable[..., Any],
    timesteps: Tensor,
    network: Network,
    noise: Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Tensor:
    """The samples after each step, `(T, B, *shape)`.

    Args:
        scheduler: prepared, and used up by this.
        step: `scheduler.step`, perhaps with options.
        timesteps: `(T,)`.
        network: the model.
        noise: what the first step gets, `(B, *shape)`.
        generator: of the scheduler's noise.
    """
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    places = torch.arange(len(noise), device=noise.device)
    scale = getattr(scheduler, "scale_model_input", None)
    sample, samples = noise, []
    for timestep in timesteps:
        seen = sample if scale is None else scale(sample, timestep)
        output = network(seen, timestep.to(noise.device).expand(len(noise)), places)
        sample = step(output, timestep, sample, return_dict=False, **draws)[0]
        samples.append(sample)
    return torch.stack(samples)
