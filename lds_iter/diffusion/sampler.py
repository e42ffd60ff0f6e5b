"""Sample what a diffusers scheduler samples step by step, for all steps at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.at_steps import AtSteps
from lds_iter.diffusion.coefficients import Coefficients, widened
from lds_iter.diffusion.denoise import Watch, denoise
from lds_iter.diffusion.loop import step_through
from lds_iter.diffusion.network import Network
from lds_iter.diffusion.noise import inputs_of
from lds_iter.diffusion.probe import schedule_of
from lds_iter.diffusion.recurrence import Denoising
from lds_iter.diffusion.sampled import Sampled, Work
from lds_iter.diffusion.schedule import prepared
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.settings import Settings, check_max_batch, warn_of_clipping
from lds_iter.diffusion.spread import spread_of
from lds_iter.diffusion.task import Task
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import Progress


@dataclass(frozen=True)
class ParallelSampler:
    """A diffusers model and scheduler, sampled in parallel over the denoising steps.

    The samples are the scheduler's own, from the same noise, up to the tolerance; with `tol=0` up to rounding. For a
    whole pipeline see `parallelize`.

    Attributes:
        model: a `UNet2DModel`, `UNet2DConditionModel`, a transformer, or any module or function called with the sample,
            the timestep and the conditioning as keywords, in the dtype of its weights; compiled or wrapped as well.
        scheduler: a diffusers scheduler; it is copied, never changed.
        method, window, tol, thin, reuse: see `Settings`.
        max_batch: most images in one call of the model (guidance takes two per sample); None for no limit.
        timestep_scale: the model is told this times the timestep: 1/1000 for some flow-matching transformers.
    """

    model: Any
    scheduler: Any
    method: LDSApproximation = field(default_factory=Secant)
    window: int | None = None
    tol: float = 1e-2
    max_batch: int | None = None
    timestep_scale: float = 1.0
    thin: int | None = None
    reuse: float | None = None

    def __post_init__(self) -> None:
        check_max_batch(self.max_batch)
        _ = self.settings

    @property
    def settings(self) -> Settings:
        """Those of the solve."""
        return Settings(self.method, self.window, self.tol, self.thin, self.reuse)

    def __call__(
        self,
        noise: Tensor,
        num_inference_steps: int | None = 50,
        conditioning: Mapping[str, Any] | None = None,
        *,
        unconditional: Mapping[str, Any] | None = None,
        guidance_scale: float | Tensor = 1.0,
        guidance_rescale: float = 0.0,
        shared: Collection[str] = (),
        generator: torch.Generator | list[torch.Generator] | None = None,
        begin: int = 0,
        step_options: Mapping[str, Any] | None = None,
        timestep_options: Mapping[str, Any] | None = None,
        guess: Tensor | None = None,
        progress: bool = False,
        record: bool = False,
        callback: Callable[[Progress], object] | None = None,
    ) -> Sampled:
        """Denoise a batch.

        Args:
            noise: what the first step gets, `(B, *shape)`, floating: noise times `scheduler.init_noise_sigma`, or for
                image to image a noised image, together with `begin`.
            num_inference_steps: as for `scheduler.set_timesteps`; without effect beside timesteps of one's own.
            conditioning: keywords of the model, such as `class_labels` or `encoder_hidden_states`; every tensor leads
                with the batch, in lists and dictionaries too.
            unconditional: the same, under the same names, for classifier-free guidance.
            guidance_scale: of the guidance, one for all or `(B,)`.
            guidance_rescale: in [0, 1], as diffusers has it.
            shared: names in `conditioning` that are the same for all samples, such as position ids of one's own.
            generator: of the noise that stochastic schedulers add, drawn as they would, step after step.
            begin: entries of the scheduler's timesteps to skip.
            step_options: more for `scheduler.step`, such as `eta`.
            timestep_options: more for `scheduler.set_timesteps`: `timesteps`, `sigmas`, `mu`.
            guess: a trajectory to start from, `(T, B, *shape)`, such as `Sampled.trajectory` of a run with another
                prompt or of the frame before.
            progress: show a bar.
            record: keep `Sampled.solution.history`.
            callback: called with a `li.Progress` after every round.

        Raises:
            SchedulerNotMapped: names schedulers that can be run in parallel.
            ValueError: for arguments that do not fit each other.
            li.SolveError: when a sample does not converge.
        """
        task = Task(
            noise=noise,
            num_inference_steps=num_inference_steps,
            conditioning=conditioning or {},
            unconditional=unconditional,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            shared=shared,
            generator=generator,
            begin=begin,
            step_options=step_options or {},
            timestep_options=timestep_options or {},
        )
        recurrence, inputs, network = self._recurrence(task, self.settings)
        sampled = denoise(recurrence, noise, inputs, self.settings, Watch(progress, record, callback), guess)
        sampled.work.evaluations += network.checks
        return sampled

    def step_by_step(
        self,
        noise: Tensor,
        num_inference_steps: int | None = 50,
        conditioning: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sampled:
        """The same by the scheduler's own loop, as a pipeline runs it: the reference, and the way out.

        Args:
            noise, num_inference_steps, conditioning: as in a call.
            options: `unconditional` to `timestep_options` of a call; a `TypeError` for any other name.
        """
        task = Task(noise=noise, num_inference_steps=num_inference_steps, conditioning=conditioning or {}, **options)
        scheduler, timesteps = self.prepared(task)
        network = self.network(task, told=spread_of(scheduler, timesteps) is not None)
        step = functools.partial(scheduler.step, **task.step_options)
        with torch.no_grad():
            trajectory = step_through(scheduler, step, timesteps, network, noise, task.generator)
        work = Work(len(timesteps), len(timesteps) * len(noise))
        return Sampled(trajectory[-1].clone(), trajectory, timesteps, work, noise.new_zeros(len(noise)), None)

    def prepared(self, task: Task) -> tuple[Any, Tensor]:
        """A copy of the scheduler, ready for the first step, and the timesteps."""
        return prepared(self.scheduler, task.num_inference_steps, task.begin, task.timestep_options)

    def network(self, task: Task, *, told: bool = False) -> Network:
        """The model with its conditioning; `told`: whether the scheduler asks it for a variance."""
        parameter = next(iter(self.model.parameters()), None) if isinstance(self.model, torch.nn.Module) else None
        return Network(
            self.model,
            task.conditioning,
            task.unconditional,
            task.guidance_scale,
            task.noise.dtype if parameter is None else parameter.dtype,
            self.max_batch,
            self.timestep_scale,
            task.shared,
            task.guidance_rescale,
            told,
        )

    def recurrence(self, task: Task) -> tuple[Denoising, dict[str, Tensor], AtSteps]:
        """The recurrence, its inputs, noise drawn, and the network as the recurrence calls it.

        It evaluates its network wherever it is asked: `thin` and `reuse` are of the sampler's own solve.
        """
        return self._recurrence(task, replace(self.settings, thin=0, reuse=0.0))

    def _recurrence(self, task: Task, settings: Settings) -> tuple[Denoising, dict[str, Tensor], AtSteps]:
        scheduler, timesteps = self.prepared(task)
        schedule = schedule_of(scheduler, timesteps, task.step_options)
        table = Coefficients.of(schedule, widened(task.noise))
        guided = task.unconditional is not None
        warn_of_clipping(scheduler, schedule, guided=guided)
        network = AtSteps(self.network(task, told=schedule.spread is not None), table.timesteps)
        inputs = inputs_of(scheduler, schedule, table, task.noise, task.step_options, generator=task.generator)
        recurrence = Denoising(
            table,
            schedule.clip,
            network,
            widened(task.noise),
            stride=settings.stride(schedule),
            reuse=settings.radius(schedule, guided=guided),
            guided=guided,
        )
        return recurrence, inputs, network
