"""A run of an untouched scheduler on made-up network outputs: what its table must repeat before it is believed.

The outputs do not depend on the samples, so that a run is a sum of its inputs and cannot become chaotic; and they have
sizes 1, 10 and 100, so that whatever clips does clip.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.machine import Machine
from lds_iter.diffusion.schedule import Schedule, SchedulerNotMapped
from lds_iter.diffusion.spread import learned_kind

WIDTH = 16
"""Numbers per sample: enough to tell what a step adds as noise from what it computes."""

SIZES = (1.0, 10.0, 100.0)
"""Of the outputs, one sample of the rehearsal each. Clipping in one step of Heun's method shows at 100 alone."""

TABLE_TOLERANCE = 1e-4
"""Largest difference between table and scheduler, relative to the largest sample. Schedulers keep their coefficients in
float32, and rounding, carried along for a thousand steps, stays below it; a wrong entry does not."""

SAMPLE = "x"
"""The name of the first slot; what a scheduler remembers has the name of its attribute."""


@dataclass(frozen=True)
class Rehearsal:
    """Leading dimensions: steps, then the sizes of the outputs.

    Attributes:
        samples: `(T + 1, 3, WIDTH)`.
        outputs: `(T, 3, WIDTH)`.
        told: of the variance, likewise.
        added: the noise of the scheduler's own, likewise.
        slots: the names of all that the scheduler remembered on the way.
    """

    samples: Tensor
    outputs: Tensor
    told: Tensor
    added: Tensor
    slots: tuple[str, ...]


def check_options(scheduler: Any, options: Mapping[str, Any]) -> None:
    """`step_options`: arguments of the scheduler's step, without noise."""
    if "generator" in options or "variance_noise" in options:
        raise ValueError("Noise is drawn once, from the `generator` of the call: leave it out of the step's options.")
    accepted = inspect.signature(scheduler.step).parameters
    wrong = [name for name in options if name not in accepted]
    if wrong:
        raise ValueError(
            f"`step_options` must be arguments of `{type(scheduler).__name__}.step`, {list(accepted)[3:]}, got {wrong}."
        )


def rehearse(scheduler: Any, timesteps: Tensor, options: Mapping[str, Any]) -> Rehearsal:
    """Run an untouched copy, and see what it remembers on the way."""
    machine, silent = Machine.of(scheduler, options), Machine.of(scheduler, options)
    silent.tell_no_variance()
    generator = torch.Generator().manual_seed(1)
    shape = (len(SIZES), 1, 1, WIDTH)
    sample = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    sample = sample * float(getattr(scheduler, "init_noise_sigma", 1.0))
    outputs = torch.randn(len(timesteps), *shape, generator=generator, dtype=torch.float64, device="cpu")
    outputs = outputs * torch.tensor(SIZES, dtype=torch.float64, device="cpu").view(-1, 1, 1, 1)
    told = torch.rand(len(timesteps), *shape, generator=generator, dtype=torch.float64, device="cpu")
    two = learned_kind(scheduler) is not None
    samples, added, slots = [sample], [], {SAMPLE: None}
    for step, timestep in enumerate(timesteps):
        machine.scaled(sample, timestep)
        silent.forget(sample.shape)
        silent.scaled(0 * sample, timestep)
        output = torch.cat([outputs[step], told[step]], 1) if two else outputs[step].clone()
        state = torch.get_rng_state()
        before = machine.generator.get_state()
        sample = machine.step(output, timestep, sample.clone()).double()
        torch.set_rng_state(state)
        noise = silent.step(0 * sample, timestep, 0 * sample).double()
        by_generator = not torch.equal(machine.generator.get_state(), before)
        added.append(torch.zeros_like(noise) if by_generator else noise)
        _refuse_infinite(scheduler, sample, step, len(timesteps))
        samples.append(sample)
        slots |= dict.fromkeys(machine.memory(sample.shape))
    rows = [torch.stack(each).flatten(2) for each in (samples, added)]
    return Rehearsal(rows[0], outputs.flatten(2), told.flatten(2), rows[1], tuple(slots))


def _refuse_infinite(scheduler: Any, sample: Tensor, step: int, steps: int) -> None:
    if bool(sample.isfinite().all()):
        return
    why = f"its own step {step} of {steps} is not finite"
    config = scheduler.config
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") == "epsilon":
        instead = (
            "At a signal of zero (`rescale_betas_zero_snr`) the noise says nothing of the image: the network must be "
            "one of `prediction_type='v_prediction'`. For a network that predicts noise, type "
            f"`{type(scheduler).__name__}.from_config(scheduler.config, rescale_betas_zero_snr=False)`."
        )
        raise SchedulerNotMapped(scheduler, why, instead)
    raise SchedulerNotMapped(
        scheduler,
        why,
        f"Its own loop ends there too. Take fewer steps, or type `{type(scheduler).__name__}.from_config("
        "scheduler.config, timestep_spacing='trailing')`.",
    )


def verify_rehearsal(scheduler: Any, schedule: Schedule, rehearsal: Rehearsal) -> None:
    """Run the table on what the rehearsal saw, noise included, and compare."""
    generator = torch.Generator().manual_seed(0)
    state = torch.zeros(len(SIZES), len(schedule.slots), WIDTH, dtype=torch.float64, device="cpu")
    state[:, 0] = rehearsal.samples[0]
    largest = state[:, 0].abs().amax(-1)
    for step in range(len(schedule)):
        noise = _noise(schedule, step, state[:, 0], generator)
        if schedule.spread is not None:
            noise = (
                noise
                * schedule.spread.deviation(torch.tensor([step], device="cpu"), rehearsal.told[step : step + 1])[0]
            )
        state = step_of_table(schedule, step, state, rehearsal.outputs[step], noise)
        state[:, 0] += rehearsal.added[step]
        due = rehearsal.samples[step + 1]
        largest = torch.maximum(largest, due.abs().amax(-1))
        error = (state[:, 0] - due).abs().amax(-1)
        if not bool((error <= TABLE_TOLERANCE * largest).all()):
            why = f"a table of coefficients misses its step {step} of {len(schedule)} by {float(error.max()):.2g}"
            raise SchedulerNotMapped(scheduler, why)


def _noise(schedule: Schedule, step: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """The noise of one step of the rehearsal, `(3, WIDTH)`."""
    if not schedule.draws[step]:
        return torch.zeros_like(like)
    dtype = torch.float32 if schedule.draws_float32 else like.dtype
    return (
        torch.randn(len(SIZES), 1, 1, WIDTH, generator=generator, dtype=dtype, device="cpu").flatten(1).to(like.dtype)
    )


def step_of_table(schedule: Schedule, step: int, state: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """One step of slots `(N, k, D)`, with outputs and noise `(N, D)`."""
    after = schedule.linear[step] @ state + schedule.model[step, :, None] * output.unsqueeze(1)
    after = after + schedule.noise[step, :, None] * noise.unsqueeze(1)
    if schedule.clip is None:
        return after
    estimate = torch.einsum("j,njd->nd", schedule.estimate[step], torch.cat([state, output.unsqueeze(1)], 1))
    clipped = schedule.clip(estimate[:, None, None, :]).flatten(1)
    return after + schedule.clipped[step, :, None] * clipped.unsqueeze(1)
