"""The noise that a stochastic scheduler adds, drawn once and for all steps."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.diffusion.schedulers import Schedule


def drawn(schedule: Schedule, noise: Tensor, generator: torch.Generator | None) -> Tensor:
    """The noise of each step, `(T, B, *shape)`, drawn in the scheduler's order; 0 where it draws none."""
    from diffusers.utils.torch_utils import randn_tensor

    dtype = torch.float32 if schedule.draws_float32 else noise.dtype
    rows = [
        randn_tensor(noise.shape, generator=generator, device=noise.device, dtype=dtype)
        if draws
        else torch.zeros_like(noise, dtype=dtype)
        for draws in schedule.draws.tolist()
    ]
    return torch.stack(rows)
