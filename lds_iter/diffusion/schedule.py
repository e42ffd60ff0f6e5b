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

from lds_iter.diffusion.slopes import Levels
from lds_iter.diffusion.spread import Spread

MAPPABLE = (
    "DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, "
    "DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler"
)


class SchedulerNotMapped(ValueError):
    """The scheduler is no recurrence with linear coefficients; the message says what to type instead.

    Args:
        scheduler: which.
        why: what was found.
        instead: what to type; another scheduler when None.
    """

    def __init__(self, scheduler: Any, why: str, instead: str | None = None) -> None:
        name = type(scheduler).__name__
        other = "EulerDiscreteScheduler" if name == "DDIMScheduler" else "DDIMScheduler"
        advice = f"Schedulers that can: {MAPPABLE}. Type for instance `{other}.from_config(scheduler.config)`."
        super().__init__(f"`{name}` cannot be run in parallel: {why}. {instead or advice}")


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
        own_noise: whether steps add noise of the scheduler's own, such as a Brownian tree, which no generator gives.
        spread: how much noise the network asks for, in place of `q`; None where it is not asked.
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
    own_noise: bool
    spread: Spread | None
    slots: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def noisy(self) -> bool:
        """Whether any step adds noise."""
        return self.own_noise or bool(self.draws.any())

    def without_dead_slots(self) -> Schedule:
        """Leave out the memory that nothing reads any more, such as the oldest output of a multistep solver."""
        alive = torch.zeros(len(self.slots), dtype=torch.bool, device="cpu")
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
    scheduler: Any, steps: int | None, begin: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[Any, Tensor]:
    """A copy of the scheduler that is ready for its first step, and the timesteps to step through.

    Args:
        steps: `num_inference_steps`; without effect, and best None, where `options` hold timesteps or sigmas of one's
            own.
        begin: entries of `scheduler.timesteps` to skip, as image-to-image pipelines do.
        options: more for `set_timesteps`, such as `timesteps`, or `mu` and `sigmas` for flow matching.
    """
    options = dict(options or {})
    custom = [name for name in ("timesteps", "sigmas") if options.get(name) is not None]
    if not custom and (steps is None or steps < 1):
        raise ValueError(
            f"`num_inference_steps` must be 1 or more, got {steps}. None is for timesteps of one's own: type "
            "timestep_options={'timesteps': [900, 600, 300]} or {'sigmas': [...]}."
        )
    mine = copy.deepcopy(scheduler)
    accepted = inspect.signature(mine.set_timesteps).parameters
    wrong = [name for name in options if name not in accepted and not _takes_any(accepted)]
    if wrong:
        raise ValueError(
            f"`timestep_options` must be arguments of `{type(scheduler).__name__}.set_timesteps`, "
            f"{list(accepted)}, got {wrong}."
        )
    if custom:  # most schedulers refuse a number of steps beside them; those that need one want their length
        mine.set_timesteps(**{**options, **_length_beside(accepted, options[custom[0]])})
    else:
        mine.set_timesteps(steps, **options)
    if not 0 <= begin < len(mine.timesteps):
        raise ValueError(
            f"`begin` skips {begin} of the {len(mine.timesteps)} timesteps that the scheduler makes; at least one must "
            "be left. For image to image: more steps or more `strength`."
        )
    if begin and hasattr(mine, "set_begin_index"):
        mine.set_begin_index(begin)
    return mine, mine.timesteps[begin:].cpu()


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _length_beside(accepted: Mapping[str, inspect.Parameter], given: Any) -> dict[str, int]:
    required = accepted["num_inference_steps"].default is inspect.Parameter.empty
    return {"num_inference_steps": len(given)} if required else {}


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
    size = torch.ones(count + 1, slots, dtype=torch.float64, device="cpu")
    size[:-1, 0] = 1 / schedule.input_scale
    for step in range(count):
        terms = torch.cat([schedule.linear[step] * size[step], schedule.model[step, :, None]], 1)
        made = torch.cat([terms, schedule.clipped[step, :, None]], 1).square().sum(1).sqrt()
        size[step + 1, 1:] = made[1:].clamp(min=1e-3)
    return size
