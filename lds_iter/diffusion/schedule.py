"""A diffusers scheduler as a recurrence: a table of small matrices, one row of them per step.

After `set_timesteps`, one call of `scheduler.step` computes the next sample, and what the scheduler remembers, from the
sample, from what it remembers, from the output `m` of the network, and perhaps from fresh noise `n`. Apart from
clipping it is linear in all of them, with numbers that depend on the step alone:

    S' = L S + b m + e y + q n        S = (sample, memory ...), the slots;   m = net(c * sample, tau)
    y  = clip(p S + o m)              only where the scheduler clips or thresholds its estimate of the image

`probe.py` reads the table off the scheduler itself, so this file knows no scheduler by name, except to say what is
wrong with one that is no such recurrence.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recipes.diffusion.slopes import Levels

MAPPABLE = (
    "DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, "
    "DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler"
)


class SchedulerNotMapped(ValueError):
    """The scheduler is no recurrence with linear coefficients; the message names some that are."""

    def __init__(self, scheduler: Any, why: str) -> None:
        name = type(scheduler).__name__
        super().__init__(
            f"`{name}` cannot be run in parallel: {why}. Schedulers that can: {MAPPABLE}; type for instance "
            "`DDIMScheduler.from_config(scheduler.config)`."
        )


@dataclass(frozen=True)
class Schedule:
    """T steps over k slots, of which the sample is the first; float64, on the CPU.

    Attributes:
        timesteps: what the network is told, `(T,)`.
        input_scale: the network sees `input_scale * sample`, `(T,)`.
        levels: of signal and noise in what the network sees.
        linear: `L`, `(T, k, k)`.
        model: `b`, `(T, k)`.
        clipped: `e`, `(T, k)`.
        noise: `q`, `(T, k)`.
        estimate: `(p, o)`, `(T, k + 1)`.
        clip: maps estimates of the image `(N, *shape)` to clipped ones; None where nothing is clipped.
        draws: the steps that draw noise from the generator, bool `(T,)`.
        draws_float32: whether noise is drawn in float32 whatever the dtype of the sample.
        slots: their names.
    """

    timesteps: Tensor
    input_scale: Tensor
    levels: Levels
    linear: Tensor
    model: Tensor
    clipped: Tensor
    noise: Tensor
    estimate: Tensor
    clip: Callable[[Tensor], Tensor] | None
    draws: Tensor
    draws_float32: bool
    slots: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    def without_dead_slots(self) -> Schedule:
        """Leave out the memory that nothing reads any more, such as the oldest output of a multistep solver."""
        alive = torch.zeros(len(self.slots), dtype=torch.bool)
        alive[0] = True
        while True:
            read = (self.linear[:, alive] != 0).any(0).any(0) | (self.estimate[:, :-1] != 0).any(0)
            if bool((alive | read).eq(alive).all()):
                break
            alive |= read
        kept = alive.nonzero().flatten()
        return replace(
            self,
            linear=self.linear[:, kept][:, :, kept],
            model=self.model[:, kept],
            clipped=self.clipped[:, kept],
            noise=self.noise[:, kept],
            estimate=torch.cat([self.estimate[:, kept], self.estimate[:, -1:]], 1),
            slots=tuple(self.slots[place] for place in kept.tolist()),
        )


def prepared(
    scheduler: Any, steps: int, begin: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[Any, Tensor]:
    """A copy of the scheduler that is ready for its first step, and the timesteps to step through.

    Args:
        steps: `num_inference_steps`.
        begin: entries of `scheduler.timesteps` to skip, as image-to-image pipelines do.
        options: more for `set_timesteps`, such as `mu` or `sigmas` for flow matching.
    """
    if steps < 1:
        raise ValueError(f"`num_inference_steps` must be 1 or more, got {steps}.")
    mine = copy.deepcopy(scheduler)
    mine.set_timesteps(steps, **(options or {}))
    if not 0 <= begin < len(mine.timesteps):
        raise ValueError(
            f"`begin` skips {begin} of the {len(mine.timesteps)} timesteps that the scheduler makes of {steps} steps; "
            "at least one must be left. For image to image: more steps or more `strength`."
        )
    if begin and hasattr(mine, "set_begin_index"):
        mine.set_begin_index(begin)
    return mine, mine.timesteps[begin:].cpu()


def clipping(scheduler: Any) -> Callable[[Tensor], Tensor] | None:
    """What the scheduler does to its estimate of the image, or None.

    A configuration that comes from another scheduler may hold settings that this one does not have.
    """
    config, known = scheduler.config, inspect.signature(type(scheduler).__init__).parameters
    if "thresholding" in known and config.get("thresholding"):
        return scheduler._threshold_sample
    if "clip_sample" in known and config.get("clip_sample"):
        bound = config.get("clip_sample_range", 1.0)
        return lambda estimate: estimate.clamp(-bound, bound)
    return None


def variance_preserving(schedule: Schedule) -> Tensor:
    """The size of each slot before each step and after the last, `(T + 1, k)`, if images and noise have unit size.

    The sample's is `1 / input_scale`: schedulers that work at a standard deviation beyond 1 scale it down for the
    network. What a step remembers has the size of the terms that it is made of.
    """
    count, slots = len(schedule), len(schedule.slots)
    size = torch.ones(count + 1, slots, dtype=torch.float64)
    size[:-1, 0] = 1 / schedule.input_scale
    for step in range(count):
        terms = torch.cat([schedule.linear[step] * size[step], schedule.model[step, :, None]], 1)
        made = torch.cat([terms, schedule.clipped[step, :, None]], 1).square().sum(1).sqrt()
        size[step + 1, 1:] = made[1:].clamp(min=1e-3)
    return size
