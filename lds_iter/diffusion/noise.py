"""The noise that a stochastic scheduler adds, drawn once and for all steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.coefficients import Coefficients
from lds_iter.diffusion.machine import Machine
from lds_iter.diffusion.schedule import Schedule


def drawn(schedule: Schedule, noise: Tensor, generator: Any) -> Tensor:
    """The noise of each step, `(T, B, *shape)`, drawn in the scheduler's order; 0 where it draws none.

    Args:
        schedule: says which steps draw.
        noise: like what the first step gets, `(B, *shape)`.
        generator: a `torch.Generator`, one per sample in a list, or None for torch's own.
    """
    from diffusers.utils.torch_utils import randn_tensor

    dtype = torch.float32 if schedule.draws_float32 else noise.dtype
    rows = [
        randn_tensor(noise.shape, generator=generator, device=noise.device, dtype=dtype)
        if draws
        else torch.zeros_like(noise, dtype=dtype)
        for draws in schedule.draws.tolist()
    ]
    return torch.stack(rows)


def noise_of_zeros(
    scheduler: Any, schedule: Schedule, noise: Tensor, options: Mapping[str, Any], generator: Any
) -> Tensor:
    """What each step adds to each slot of its own accord, `(T, B, k, *shape)`: its result on zeros.

    For noise that is no draw of a generator, such as a Brownian tree. A copy of the scheduler is stepped.
    """
    machine, rows = Machine(copy.deepcopy(scheduler), options, generator), []
    zeros = torch.zeros_like(noise)
    for timestep in schedule.timesteps:
        machine.forget(zeros.shape)
        machine.scaled(zeros, timestep)
        after = {"x": machine.step(zeros.clone(), timestep, zeros.clone())} | machine.memory(zeros.shape)
        rows.append(torch.stack([after.get(name, zeros) for name in schedule.slots], 1))
    return torch.stack(rows)


def inputs_of(
    scheduler: Any,
    schedule: Schedule,
    table: Coefficients,
    noise: Tensor,
    options: Mapping[str, Any],
    *,
    generator: Any,
) -> dict[str, Tensor]:
    """The inputs of a `Denoising`: the steps, and what their noise adds, drawn from the generator.

    Args:
        scheduler: ready for its first step.
        schedule, table: of it.
        noise: like what the first step gets, `(B, *shape)`.
        options: more arguments of `scheduler.step`.
        generator: see `drawn`.
    """
    inputs = {"step": torch.arange(len(schedule), device=noise.device)}
    if schedule.noisy:
        size, dtype = table.size[1:], table.gain.dtype
        if schedule.own_noise:
            added = noise_of_zeros(scheduler, schedule, noise, options, generator).to(dtype).flatten(3)
            inputs["offset"] = (added / size.view(len(size), 1, -1, 1)).flatten(2)
        else:
            fresh = drawn(schedule, noise, generator).to(dtype).flatten(2)
            factor = schedule.noise.to(size) / size
            inputs["offset"] = (factor[:, None, :, None] * fresh.unsqueeze(2)).flatten(2)
    return inputs
