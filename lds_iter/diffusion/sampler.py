"""Sample what a diffusers scheduler samples step by step, for all steps at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.coefficients import Coefficients
from lds_iter.diffusion.conditioning import check_conditioning, check_pair
from lds_iter.diffusion.denoise import Watch, denoise
from lds_iter.diffusion.loop import step_through
from lds_iter.diffusion.network import Network
from lds_iter.diffusion.noise import offsets
from lds_iter.diffusion.probe import schedule_of
from lds_iter.diffusion.recurrence import Denoising
from lds_iter.diffusion.sampled import Sampled, Work
from lds_iter.diffusion.schedule import Schedule, prepared
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.settings import Settings, check_max_batch
from lds_iter.diffusion.spread import spread_of
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import Progress


@dataclass(frozen=True)
class AtSteps:
    """A `Network` that is told steps, and looks up their timesteps `(T,)`."""

    network: Network
    timesteps: Tensor
    whole: bool = False

    def __call__(self, images: Tensor, steps: Tensor, places: Tensor) -> Tensor:
        return self.network(images, self.timesteps[steps], places)


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
    thin: int = 16
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
        _check_noise(noise)
        ready, timesteps = prepared(self.scheduler, num_inference_steps, begin, timestep_options)
        schedule = schedule_of(ready, timesteps, step_options)
        network = self.network(noise, conditioning, unconditional, guidance_scale, guidance_rescale, shared, schedule)
        recurrence, inputs = self.recurrence(ready, schedule, network, noise, generator, step_options)
        return denoise(recurrence, noise, inputs, self.settings, Watch(progress, record, callback), guess)

    def schedule(
        self,
        num_inference_steps: int | None,
        begin: int = 0,
        step_options: Mapping[str, Any] | None = None,
        timestep_options: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """The scheduler as a table; see `Schedule`."""
        scheduler, timesteps = prepared(self.scheduler, num_inference_steps, begin, timestep_options)
        return schedule_of(scheduler, timesteps, step_options)

    def network(
        self,
        noise: Tensor,
        conditioning: Mapping[str, Any] | None = None,
        unconditional: Mapping[str, Any] | None = None,
        guidance_scale: float | Tensor = 1.0,
        guidance_rescale: float = 0.0,
        shared: Collection[str] = (),
        schedule: Schedule | None = None,
    ) -> Network:
        """The model with its conditioning."""
        check_pair(conditioning or {}, unconditional, guidance_scale)
        for name, given in ("conditioning", conditioning), ("unconditional", unconditional):
            check_conditioning(name, given or {}, len(noise), shared)
        parameter = next(iter(self.model.parameters()), None) if isinstance(self.model, torch.nn.Module) else None
        return Network(
            self.model,
            conditioning or {},
            unconditional,
            guidance_scale,
            noise.dtype if parameter is None else parameter.dtype,
            self.max_batch,
            self.timestep_scale,
            shared,
            guidance_rescale,
            schedule is not None and schedule.spread is not None,
        )

    def recurrence(
        self,
        scheduler: Any,
        schedule: Schedule,
        network: Network,
        noise: Tensor,
        generator: Any,
        step_options: Mapping[str, Any] | None = None,
    ) -> tuple[Denoising, dict[str, Tensor]]:
        """The recurrence and its inputs, noise drawn; `scheduler`: `prepared`."""
        like = noise.to(torch.promote_types(noise.dtype, torch.float32))
        table = Coefficients.of(schedule, like)
        thin = 0 if schedule.noisy else self.thin  # outputs along a noisy trajectory do not interpolate
        inputs = {"step": torch.arange(len(schedule), device=noise.device)}
        if schedule.noisy:
            inputs["offset"] = offsets(
                scheduler, schedule, table.size[1:], noise, step_options or {}, generator, like.dtype
            )
        rough = schedule.noisy or schedule.clip is not None or network.unconditional is not None
        reuse = self.settings.radius(rough, len(schedule))
        return Denoising(table, schedule.clip, AtSteps(network, table.timesteps), like, thin=thin, reuse=reuse), inputs

    def step_by_step(
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
    ) -> Sampled:
        """The same by the scheduler's own loop, as a pipeline runs it: the reference, and the way out."""
        _check_noise(noise)
        scheduler, timesteps = prepared(self.scheduler, num_inference_steps, begin, timestep_options)
        network = self.network(noise, conditioning, unconditional, guidance_scale, guidance_rescale, shared)
        network = replace(network, told=spread_of(scheduler, timesteps) is not None)
        step = functools.partial(scheduler.step, **(step_options or {}))
        with torch.no_grad():
            trajectory = step_through(scheduler, step, timesteps, network, noise, generator)
        work = Work(len(timesteps), len(timesteps) * len(noise))
        return Sampled(trajectory[-1].clone(), trajectory, timesteps, work, noise.new_zeros(len(noise)), None)


def _check_noise(noise: Tensor) -> None:
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        kind = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"`noise` must be a floating tensor (B, *shape), got {kind}. Type `noise.float()`.")
    if not noise.numel():
        raise ValueError(f"`noise` must be a batch of images, (B, C, H, W), got the empty shape {(*noise.shape,)}.")
