"""Read the table of a scheduler off the scheduler itself.

Before each step of a copy, the sample and every tensor that the copy remembers are replaced by unit vectors, stacked
along the batch, and so is the output of the network; what the step makes of them are the columns of the table. A last
entry of the batch is zero throughout: what it becomes is the noise. The table is believed only after it has repeated
what an untouched copy does (`rehearsal.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.machine import Machine, quiet_generators
from lds_iter.diffusion.rehearsal import SAMPLE, WIDTH, check_options, rehearse, verify_rehearsal
from lds_iter.diffusion.schedule import Schedule, SchedulerNotMapped, clipping
from lds_iter.diffusion.slopes import levels_of
from lds_iter.diffusion.spread import spread_of


def schedule_of(scheduler: Any, timesteps: Tensor, step_options: Mapping[str, Any] | None = None) -> Schedule:
    """The table of a scheduler that `prepared` has made ready.

    Args:
        step_options: more for `scheduler.step`, such as `eta`.

    Raises:
        SchedulerNotMapped: when the scheduler is no such recurrence.
    """
    options = step_options or {}
    check_options(scheduler, options)
    with quiet_generators():
        try:
            rehearsal = rehearse(scheduler, timesteps, options)
            schedule = probe(scheduler, timesteps, options, rehearsal.slots)
        except (AttributeError, IndexError, NameError, RuntimeError, TypeError) as error:
            raise SchedulerNotMapped(scheduler, f"stepping it by itself failed with `{error}`") from error
        verify_rehearsal(scheduler, schedule, rehearsal)
    return schedule.without_dead_slots()


@dataclass
class Columns:
    """What the probe has read, a list entry per step."""

    scales: list[float] = field(default_factory=list)
    tables: list[Tensor] = field(default_factory=list)
    noises: list[Tensor] = field(default_factory=list)
    draws: list[Tensor | None] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)
    own_noise: bool = False


def probe(scheduler: Any, timesteps: Tensor, options: Mapping[str, Any], slots: tuple[str, ...]) -> Schedule:
    """Step a copy through unit vectors; the rows of the batch are the slots, the output, the clipped image, zero."""
    spread, clip, k = spread_of(scheduler, timesteps), clipping(scheduler), len(slots)
    found = Columns()
    _step_through(scheduler, timesteps, options, slots, found)
    draws = torch.tensor([noise is not None for noise in found.draws], device="cpu")
    table = torch.stack(found.tables)
    estimate = torch.stack(found.estimates)[:, : k + 1] if found.estimates else table.new_zeros(len(timesteps), k + 1)
    noise = torch.stack(found.noises)
    return Schedule(
        timesteps=timesteps,
        input_scale=torch.tensor(found.scales, dtype=torch.float64, device="cpu"),
        levels=levels_of(scheduler, timesteps),
        linear=table[:, :, :k],
        model=table[:, :, k],
        clipped=table[:, :, k + 1],
        noise=noise if spread is None else (noise != 0).double(),
        estimate=estimate,
        clip=clip if found.estimates else None,
        draws=draws,
        draws_float32=any(noise is not None and noise.dtype == torch.float32 for noise in found.draws),
        own_noise=found.own_noise,
        spread=spread,
        slots=slots,
    )


def _step_through(
    scheduler: Any, timesteps: Tensor, options: Mapping[str, Any], slots: tuple[str, ...], found: Columns
) -> None:
    machine, k = Machine.of(scheduler, options), len(slots)
    machine.tell_no_variance()
    units = torch.eye(k + 3, k + 2, dtype=torch.float64, device="cpu")[:, :, None, None, None].expand(
        -1, -1, 1, 1, WIDTH
    )
    if clipping(scheduler) is not None:
        _intercept(machine.scheduler, units[:, k + 1], found.estimates)
    silent = Machine.of(scheduler, options)  # given zeros only, so that what comes out is noise
    silent.tell_no_variance()
    for timestep in timesteps:
        sample = units[:, 0].clone()
        found.scales.append(float(machine.scaled(sample, timestep)[0].mean()))
        for name in machine.memory(sample.shape):
            machine.remember(name, units[:, slots.index(name)].clone())
        silent.forget(sample.shape)
        silent.scaled(0 * sample, timestep)
        before = machine.generator.get_state()
        state = torch.get_rng_state()
        after = {SAMPLE: machine.step(units[:, k].clone(), timestep, sample)} | machine.memory(sample.shape)
        torch.set_rng_state(state)
        noise = _drawn(scheduler, before, machine.generator, sample)
        added = {SAMPLE: silent.step(0 * sample, timestep, 0 * sample)} | silent.memory(sample.shape)
        if noise is None and bool((added[SAMPLE] != 0).any()):
            found.own_noise = True
            after = {name: value - added[name] for name, value in after.items()}
        table, by_noise = _columns(scheduler, [after.get(name) for name in slots], noise)
        found.tables.append(table)
        found.noises.append(by_noise)
        found.draws.append(noise)


def _intercept(scheduler: Any, unit: Tensor, estimates: list[Tensor]) -> None:
    """Put a unit vector in the place of what the scheduler's copy clips, and keep its estimates of the image."""
    scheduler.register_to_config(thresholding=True)
    scheduler._threshold_sample = lambda estimate: estimates.append(estimate.double().mean((1, 2, 3))) or unit.clone()


def _drawn(scheduler: Any, before: Tensor, generator: torch.Generator, like: Tensor) -> Tensor | None:
    """The noise that the step has drawn, if any, drawn again."""
    if torch.equal(generator.get_state(), before):
        return None
    for dtype in like.dtype, torch.float32:
        again = torch.Generator()
        again.set_state(before)
        noise = torch.randn(like.shape, generator=again, dtype=dtype, device="cpu")
        if torch.equal(generator.get_state(), again.get_state()):
            return noise
    raise SchedulerNotMapped(scheduler, "a step draws other noise than one number per number of the sample")


def _columns(scheduler: Any, after: list[Tensor | None], noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """A step's table `(k, k + 2)` and its coefficients of the noise, `(k,)`, from the slots after it."""
    rows, by_noise = [], []
    for value in after:
        if value is None:
            value = torch.zeros(len(after) + 3, 1, 1, WIDTH, device="cpu")
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
    return torch.stack(rows), torch.tensor(by_noise, dtype=torch.float64, device="cpu")
