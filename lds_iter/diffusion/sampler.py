"""Sample what a diffusers scheduler samples step by step, for all steps at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from recipes.diffusion.coefficients import Coefficients
from recipes.diffusion.methods import Structured
from recipes.diffusion.network import Network, Work
from recipes.diffusion.noise import drawn
from recipes.diffusion.observers import Observers, Remembered
from recipes.diffusion.probe import schedule_of
from recipes.diffusion.recurrence import Denoising
from recipes.diffusion.sampled import Sampled
from recipes.diffusion.schedulers import Schedule, prepared
from recipes.diffusion.secant import Secant


@dataclass(frozen=True)
class ParallelSampler:
    """A diffusers model and scheduler, sampled in parallel over the denoising steps.

    The samples are the scheduler's own, from the same noise, up to the tolerance; with `tol=0` up to rounding.

    Attributes:
        model: a `UNet2DModel`, `UNet2DConditionModel`, a transformer, or any module or function called with the sample,
            the timestep and the conditioning as keywords, in the dtype of its weights.
        scheduler: a diffusers scheduler; it is copied, never changed.
        method: `Secant()`, `Structured()`, `li.Picard()`, or any other method of `li.solve`.
        window: steps evaluated at once beyond the first one that is not exact yet; all when None.
        tol: the error to aim at, in units of the noise level (a sample has size 1 at every step). It bounds the
            residuals: they may be `5 * tol`, and in more than fifty steps, where they add up, `250 * tol / T`.
            The error was below it, root mean square, where it was measured; no bound is possible.
        max_batch: most images in one call of the model (guidance takes two per sample); None for no limit.
        thin: in the first round about so many steps are evaluated and the rest interpolated, in the next twice as many,
            and so on until all are. 0 evaluates all of them from the first round on, as is always done where the
            scheduler adds noise.
        reuse: an image that has moved by no more than this times `tol` since the model last saw it is not evaluated
            again: its output is extended along the move by the slope of Gaussian images. 0: evaluate all that moves.
        timestep_scale: the model is told this times the timestep: 1/1000 for some flow-matching transformers.
    """

    model: Any
    scheduler: Any
    method: li.LDSApproximation = field(default_factory=Secant)
    window: int | None = None
    tol: float = 1e-2
    max_batch: int | None = None
    timestep_scale: float = 1.0
    thin: int = 16
    reuse: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.method, li.LDSApproximation):
            raise TypeError(f"`method` must be a method of `li.solve`, such as `Secant()`, got {self.method!r}.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"`window` must be 1 or more, or None for all steps at once, got {self.window}.")
        if self.thin < 0:
            raise ValueError(f"`thin` must be 0 (evaluate all steps) or more, got {self.thin}.")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"`max_batch` must be 1 or more, or None for no limit, got {self.max_batch}.")
        if not 0 <= self.tol < float("inf"):
            raise ValueError(f"`tol` must be 0 or more, got {self.tol}.")
        if not 0 <= self.reuse < float("inf"):
            raise ValueError(f"`reuse` must be 0 or more (0 reuses nothing that moved), got {self.reuse}.")

    def __call__(
        self,
        noise: Tensor,
        num_inference_steps: int = 50,
        conditioning: Mapping[str, Any] | None = None,
        *,
        unconditional: Mapping[str, Any] | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        begin: int = 0,
        step_options: Mapping[str, Any] | None = None,
        timestep_options: Mapping[str, Any] | None = None,
        progress: bool = False,
        record: bool = False,
        callback: Callable[[li.Progress], object] | None = None,
    ) -> Sampled:
        """Denoise a batch.

        Args:
            noise: what the first step gets, `(B, *shape)`: noise times `scheduler.init_noise_sigma`, or for image to
                image a noised image, together with `begin`.
            num_inference_steps: as for `scheduler.set_timesteps`.
            conditioning: keywords of the model, such as `class_labels` or `encoder_hidden_states`.
            unconditional: the same for classifier-free guidance.
            guidance_scale: of the guidance; without effect when `unconditional` is None.
            generator: of the noise that stochastic schedulers add, drawn as they would, step after step.
            begin: entries of the scheduler's timesteps to skip.
            step_options: more for `scheduler.step`, such as `eta`.
            timestep_options: more for `scheduler.set_timesteps`, such as `mu` or `sigmas`.
            progress: show a bar.
            record: keep `Sampled.solution.history`.
            callback: called with a `li.Progress` after every round.

        Raises:
            SchedulerNotMapped: names schedulers that can be run in parallel.
            li.SolveError: when a sample does not converge.
        """
        if not noise.numel():
            raise ValueError(f"`noise` must be a batch of images, (B, C, H, W), got the empty shape {(*noise.shape,)}.")
        schedule = self.schedule(num_inference_steps, begin, step_options, timestep_options)
        network = self.network(noise, conditioning, unconditional, guidance_scale)
        recurrence, inputs = self.recurrence(schedule, network, noise, generator)
        options = {"progress": progress, "record": record, "window": self.window}
        observers = Observers((recurrence.count, *(() if callback is None else (callback,))))
        carries: list[Any] = []
        with torch.no_grad():
            start = recurrence.initial(noise.to(recurrence.table.gain.dtype))
            guess = recurrence.guess(start, inputs)
            recurrence.prefetch(start, guess, inputs, self.window)
            solve = functools.partial(
                li.solve,
                recurrence,
                start,
                inputs,
                Remembered(self.method, carries),
                rtol=0,
                atol=self.tol * min(5, 250 / len(schedule)),
                callback=observers,
                **options,
            )
            solution = solve(guess=guess)
            if recurrence.thinned:  # solved, at a tolerance as wide as that, for interpolated outputs
                recurrence.thin = 0
                solution = solve(guess=solution.states)
            correction = self._last_update(recurrence, start, solution, inputs, carries[0])
        states = solution.states + correction
        trajectory = recurrence.samples(states)
        size = correction[..., : recurrence.width].abs().amax((0, -1))
        sample = trajectory[-1].to(noise.dtype)
        return Sampled(sample, trajectory, schedule.timesteps, recurrence.work, size, solution)

    def schedule(
        self,
        num_inference_steps: int,
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
        guidance_scale: float = 1.0,
    ) -> Network:
        """The model with its conditioning."""
        parameter = next(iter(self.model.parameters()), None) if isinstance(self.model, torch.nn.Module) else None
        dtype = noise.dtype if parameter is None else parameter.dtype
        return Network(
            self.model, conditioning or {}, unconditional, guidance_scale, len(noise), dtype, self.max_batch,
            self.timestep_scale,
        )  # fmt: skip

    def recurrence(
        self, schedule: Schedule, network: Network, noise: Tensor, generator: torch.Generator | None
    ) -> tuple[Denoising, dict[str, Tensor]]:
        """The recurrence and its inputs, noise drawn."""
        like = noise.to(torch.promote_types(noise.dtype, torch.float32))
        table = Coefficients.of(schedule, like)
        thin = 0 if bool(schedule.draws.any()) else self.thin  # outputs along a noisy trajectory do not interpolate
        inputs = {"step": torch.arange(len(schedule), device=noise.device)}
        if bool(schedule.draws.any()):
            factor = (schedule.noise / table.size[1:].cpu()).to(like)
            fresh = drawn(schedule, noise, generator).to(like.dtype).flatten(2)
            inputs["offset"] = (factor[:, None, :, None] * fresh.unsqueeze(2)).flatten(2)
        return Denoising(table, schedule.clip, network, like, thin=thin, reuse=self.reuse * self.tol), inputs

    def _last_update(
        self, recurrence: Denoising, start: Tensor, solution: li.Solution, inputs: Any, carry: Any
    ) -> Tensor:
        """One more update of a solution, from outputs that the solve has evaluated already."""
        if not isinstance(self.method, Secant):
            return solution.error_estimate(self.method if isinstance(self.method, Structured) else Structured())
        known = recurrence.linearize(torch.cat([start.unsqueeze(0), solution.states[:-1]]), inputs)
        return self.method.last(known, known.value - solution.states, carry)

    def step_by_step(
        self,
        noise: Tensor,
        num_inference_steps: int = 50,
        conditioning: Mapping[str, Any] | None = None,
        *,
        unconditional: Mapping[str, Any] | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        begin: int = 0,
        step_options: Mapping[str, Any] | None = None,
        timestep_options: Mapping[str, Any] | None = None,
    ) -> Sampled:
        """The same by the scheduler's own loop, as a pipeline runs it: the reference, and the way out."""
        from recipes.diffusion.loop import run

        network = self.network(noise, conditioning, unconditional, guidance_scale)
        scheduler, timesteps = prepared(self.scheduler, num_inference_steps, begin, timestep_options)
        step = functools.partial(scheduler.step, **(step_options or {}))
        with torch.no_grad():
            trajectory = run(scheduler, step, timesteps, network, noise, generator)
        work = Work(len(timesteps), len(timesteps) * len(noise))
        return Sampled(trajectory[-1], trajectory, timesteps, work, noise.new_zeros(len(noise)), None)
