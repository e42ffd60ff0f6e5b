"""Read the table of a scheduler off the scheduler itself.

Before each step of a copy, the sample and every tensor that the copy remembers are replaced by unit vectors, stacked
along the batch, and so is the output of the network; what the step makes of them are the columns of the table. A last
entry of the batch is zero throughout: what it becomes is the noise. The table is believed only after it has repeated,
to `TOLERANCE`, what an untouched copy does with made-up network outputs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.diffusion.schedulers import Schedule, SchedulerNotMapped, clipping
from recipes.diffusion.slopes import levels_of

WIDTH = 16
"""Numbers per unit vector: enough to tell what a step adds as noise from what it computes."""

TOLERANCE = 1e-4
"""Largest difference between table and scheduler, relative to the largest sample. Schedulers keep their coefficients in
float32, and rounding, carried along for a thousand steps, stays below it; a wrong entry does not."""

SAMPLE = "x"
"""The name of the first slot; what a scheduler remembers has the name of its attribute."""


@dataclass(frozen=True)
class Machine:
    """A prepared copy of a scheduler: run it, and read and write what it remembers."""

    scheduler: Any
    options: Mapping[str, Any]
    generator: torch.Generator

    @staticmethod
    def of(scheduler: Any, options: Mapping[str, Any]) -> Machine:
        return Machine(copy.deepcopy(scheduler), options, torch.Generator().manual_seed(0))

    def memory(self, shape: torch.Size) -> dict[str, Tensor]:
        """Its tensors of the sample's shape, by name; those in lists by position from the end."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self.scheduler).items():
            entries = enumerate(value, -len(value)) if isinstance(value, list) else [(None, value)]
            for place, entry in entries:
                if isinstance(entry, Tensor) and entry.shape == shape:
                    found[name if place is None else f"{name}[{place}]"] = entry
        return found

    def remember(self, name: str, value: Tensor) -> None:
        """Overwrite one of them."""
        attribute, _, place = name.rstrip("]").partition("[")
        if not place:
            setattr(self.scheduler, attribute, value)
            return
        entries = list(getattr(self.scheduler, attribute))
        entries[int(place)] = value
        setattr(self.scheduler, attribute, entries)

    def scaled(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees of a sample."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        return sample if scale is None else scale(sample, timestep)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        accepted = inspect.signature(self.scheduler.step).parameters
        generator = {"generator": self.generator} if "generator" in accepted else {}
        return self.scheduler.step(output, timestep, sample, return_dict=False, **generator, **self.options)[0]


@dataclass(frozen=True)
class Rehearsal:
    """A run of the scheduler on made-up network outputs: what the table must repeat. Leading dimension: steps."""

    samples: Tensor
    inputs: Tensor
    outputs: Tensor
    slots: tuple[str, ...]


def schedule_of(scheduler: Any, timesteps: Tensor, step_options: Mapping[str, Any] | None = None) -> Schedule:
    """The table of a scheduler that `prepared` has made ready.

    Args:
        step_options: more for `scheduler.step`, such as `eta`.

    Raises:
        SchedulerNotMapped: when the scheduler is no such recurrence.
    """
    options = step_options or {}
    if "generator" in options or "variance_noise" in options:
        raise ValueError("Noise is drawn once, from the `generator` of the call: leave it out of the step's options.")
    try:
        rehearsal = rehearse(scheduler, timesteps, options)
        schedule = probe(scheduler, timesteps, options, rehearsal.slots)
    except (AttributeError, IndexError, NameError, RuntimeError, TypeError) as error:
        raise SchedulerNotMapped(scheduler, f"stepping it by itself failed with `{error}`") from error
    _verify(scheduler, schedule, rehearsal)
    return schedule.without_dead_slots()


def made_up(inputs: Tensor, step: int) -> Tensor:
    """A stand-in for the network's output, which depends on input and time and stays within [-1, 1]."""
    return torch.sin(1.7 * inputs + 0.31 * step)


def rehearse(scheduler: Any, timesteps: Tensor, options: Mapping[str, Any]) -> Rehearsal:
    """Run an untouched copy, and see what it remembers on the way."""
    machine = Machine.of(scheduler, options)
    sample = torch.randn(1, 1, 1, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sample = sample * float(getattr(scheduler, "init_noise_sigma", 1.0))
    samples, inputs, outputs, slots = [sample], [], [], {SAMPLE: None}
    for step, timestep in enumerate(timesteps):
        inputs.append(machine.scaled(sample, timestep))
        outputs.append(made_up(inputs[-1], step))
        sample = machine.step(outputs[-1].clone(), timestep, sample.clone()).double()
        if not bool(sample.isfinite().all()):
            why = f"its own step {step} of {len(timesteps)} is not finite"
            raise SchedulerNotMapped(scheduler, f"{why}; another `timestep_spacing` or fewer steps may help")
        samples.append(sample)
        slots |= dict.fromkeys(machine.memory(sample.shape))
    return Rehearsal(torch.cat(samples), torch.cat(inputs), torch.cat(outputs), tuple(slots))


def probe(scheduler: Any, timesteps: Tensor, options: Mapping[str, Any], slots: tuple[str, ...]) -> Schedule:
    """Step a copy through unit vectors; the rows of the batch are the slots, the output, the clipped image, zero."""
    machine, clip = Machine.of(scheduler, options), clipping(scheduler)
    k = len(slots)
    units = torch.eye(k + 3, k + 2, dtype=torch.float64)[:, :, None, None, None].expand(-1, -1, 1, 1, WIDTH)
    estimates: list[Tensor] = []
    if clip is not None:
        machine.scheduler.register_to_config(thresholding=True)
        machine.scheduler._threshold_sample = lambda estimate: (
            estimates.append(estimate.double().mean((1, 2, 3))) or units[:, k + 1].clone()
        )
    scales, tables, noises, draws = [], [], [], []
    for timestep in timesteps:
        sample = units[:, 0].clone()
        scales.append(float(machine.scaled(sample, timestep)[0].mean()))
        for name in machine.memory(sample.shape):
            machine.remember(name, units[:, slots.index(name)].clone())
        before = machine.generator.get_state()
        after = {SAMPLE: machine.step(units[:, k].clone(), timestep, sample)} | machine.memory(sample.shape)
        noise = _drawn(scheduler, before, machine.generator, sample)
        table, by_noise = _read(scheduler, [after.get(name) for name in slots], noise)
        tables.append(table)
        noises.append(by_noise)
        draws.append(noise)
    table = torch.stack(tables)
    drawn = torch.tensor([noise is not None for noise in draws])
    any_float32 = any(noise is not None and noise.dtype == torch.float32 for noise in draws)
    estimate = torch.stack(estimates)[:, : k + 1] if estimates else table.new_zeros(len(timesteps), k + 1)
    return Schedule(
        timesteps=timesteps,
        input_scale=torch.tensor(scales, dtype=torch.float64),
        levels=levels_of(scheduler, timesteps),
        linear=table[:, :, :k],
        model=table[:, :, k],
        clipped=table[:, :, k + 1],
        noise=torch.stack(noises),
        estimate=estimate,
        clip=clip if estimates else None,
        draws=drawn,
        draws_float32=any_float32,
        slots=slots,
    )


def _drawn(scheduler: Any, before: Tensor, generator: torch.Generator, like: Tensor) -> Tensor | None:
    """The noise that the step has drawn, if any, drawn again."""
    if torch.equal(generator.get_state(), before):
        return None
    for dtype in like.dtype, torch.float32:
        again = torch.Generator()
        again.set_state(before)
        noise = torch.randn(like.shape, generator=again, dtype=dtype)
        if torch.equal(generator.get_state(), again.get_state()):
            return noise
    raise SchedulerNotMapped(scheduler, "a step draws other noise than one number per number of the sample")


def _read(scheduler: Any, after: list[Tensor | None], noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """A step's table `(k, k + 2)` and its coefficients of the noise, `(k,)`, from the slots after it."""
    rows, by_noise = [], []
    for value in after:
        if value is None:
            value = torch.zeros(len(after) + 3, 1, 1, WIDTH)
        value, factor = value.double(), 0.0
        if noise is not None:
            factor = float((value[-1] * noise[-1]).sum() / noise[-1].square().sum())
            value = value - factor * noise
        row = value.mean((1, 2, 3))
        if not torch.allclose(
            value, row[:, None, None, None].expand_as(value), atol=1e-5 * max(1, float(row.abs().max()))
        ):
            raise SchedulerNotMapped(scheduler, "a step mixes the numbers of a sample")
        row = row[:-1] - row[-1]
        rows.append(torch.where(row.abs() > 1e-7 * row.abs().max(), row, 0))
        by_noise.append(factor)
    return torch.stack(rows), torch.tensor(by_noise, dtype=torch.float64)


def _verify(scheduler: Any, schedule: Schedule, rehearsal: Rehearsal) -> None:
    """Run the table on what the rehearsal saw, noise included, and compare."""
    generator = torch.Generator().manual_seed(0)
    state = torch.zeros(len(schedule.slots), WIDTH, dtype=torch.float64)
    state[0] = rehearsal.samples[0].flatten()
    for step in range(len(schedule)):
        output = made_up((schedule.input_scale[step] * state[0]), step)
        state = advance(schedule, step, state, output, draw(schedule, step, state[0], generator))
        error = float((state[0] - rehearsal.samples[step + 1].flatten()).abs().max())
        if not error <= TOLERANCE * float(rehearsal.samples[: step + 2].abs().max()):
            why = f"a table of coefficients misses its step {step} of {len(schedule)} by {error:.2g}"
            raise SchedulerNotMapped(scheduler, why)


def draw(schedule: Schedule, step: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """The noise of one step of the rehearsal."""
    if not schedule.draws[step]:
        return torch.zeros_like(like)
    dtype = torch.float32 if schedule.draws_float32 else like.dtype
    return torch.randn(1, 1, 1, WIDTH, generator=generator, dtype=dtype).flatten().to(like.dtype)


def advance(schedule: Schedule, step: int, state: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """One step of one sample's slots `(k, D)`."""
    after = schedule.linear[step] @ state + schedule.model[step, :, None] * output
    after = after + schedule.noise[step, :, None] * noise
    if schedule.clip is None:
        return after
    estimate = schedule.estimate[step] @ torch.cat([state, output[None]])
    return after + schedule.clipped[step, :, None] * schedule.clip(estimate.view(1, 1, 1, -1)).flatten()
