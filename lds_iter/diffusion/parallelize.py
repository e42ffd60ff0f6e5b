"""Any diffusers pipeline, denoised in parallel over its steps by replaying its own loop: `replay/`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.coefficients import Coefficients, widened
from lds_iter.diffusion.denoise import Watch, denoise
from lds_iter.diffusion.noise import inputs_of
from lds_iter.diffusion.probe import schedule_of
from lds_iter.diffusion.recurrence import Denoising
from lds_iter.diffusion.replay.between_steps import between_steps
from lds_iter.diffusion.replay.callbacks import Steered, by_name, silenced, with_watchers
from lds_iter.diffusion.replay.loop import Loop
from lds_iter.diffusion.replay.network import LoopNetwork
from lds_iter.diffusion.replicas import Replicas
from lds_iter.diffusion.sampled import Sampled, Work
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.settings import Settings, check_max_batch, warn_of_clipping
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled


@spelled
def parallelize(
    pipe: Any,
    *,
    tol: float = 1e-2,
    method: LDSApproximation | None = None,
    window: int | None = None,
    max_batch: int | None = None,
    thin: int | None = None,
    reuse: float | None = None,
    replicas: Mapping[str, Replicas] | None = None,
) -> ParallelPipeline:
    """A pipeline that takes the arguments of another one and returns what it returns, in fewer sequential model calls.

    Args:
        pipe: any diffusers pipeline with one scheduler. It is used as it is, and left as it was found.
        tol: the error to aim at; a sample has size 1 at every step. 0: the loop's own result up to rounding.
        method: of the solve; `Secant()` when None.
        window: steps evaluated at once; all when None.
        max_batch: most images in one call of a network, guidance counted; bounds memory. None for no limit.
        thin, reuse: see `Settings`.
        replicas: of networks on several devices, by the name of the component, such as
            `{"unet": Replicas(pipe.unet, ["cuda:0", "cuda:1"])}`.

    Raises:
        TypeError: for what is no pipeline.
    """
    if not hasattr(pipe, "components") or not callable(pipe):
        raise TypeError(
            f"`pipe` must be a diffusers pipeline, got {type(pipe).__name__}. For a network and a scheduler type "
            "ParallelSampler(network, scheduler)."
        )
    check_max_batch(max_batch)
    settings = Settings(Secant() if method is None else method, window, tol, thin, reuse)
    components: Mapping[str, Any] = getattr(pipe, "components", {})
    for name in replicas or {}:
        if name not in components:
            raise ValueError(f"`replicas` must be of components of the pipeline, {list(components)}, got {name!r}.")
    return ParallelPipeline(pipe, settings, max_batch, replicas)


class ParallelPipeline:
    """Call it as the pipeline that it was made of; attributes are read from and written to that one.

    Attributes:
        pipe: the pipeline.
        sampled: of the last call, with rounds, work and trajectory; None before.
    """

    _own = frozenset({"pipe", "settings", "max_batch", "sampled", "replicas", "_warm", "_shapes"})

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        max_batch: int | None,
        replicas: Mapping[str, Replicas] | None = None,
        warm: Tensor | None = None,
    ) -> None:
        self.pipe, self.settings, self.max_batch, self._warm = pipe, settings, max_batch, warm
        self.replicas = dict(replicas or {})
        self.sampled: Sampled | None = None
        self._shapes: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._own:  # not there yet, as when it is being unpickled
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self.pipe, name, value)

    def __repr__(self) -> str:
        return f"ParallelPipeline({type(self.pipe).__name__}, {self.settings}, max_batch={self.max_batch})"

    def starting_from(self, sampled: Sampled) -> ParallelPipeline:
        """The same, with the trajectory of another call, of equal steps and shapes, as its first guess.

        For a prompt that has changed a little, or the next frame of a video: the nearer, the fewer rounds.
        """
        return ParallelPipeline(self.pipe, self.settings, self.max_batch, self.replicas, sampled.trajectory)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `pipe(*args, **kwargs)` returns.

        A callback that only watches is called once a step, when all steps are solved; one that changes latents, other
        tensors or the pipeline is obeyed, and called many times a step.

        Raises:
            PipelineNotMapped, SchedulerNotMapped: say why, and what to type.
            li.SolveError: when a sample does not converge.
        """
        given = by_name(self.pipe, args, kwargs)
        try:
            return self._called(given, silenced(given), with_watchers(self.pipe, given))
        except Steered:
            before = self.sampled
        result = self._called(given, {}, {}, before)
        if before is not None and self.sampled is not None:
            self.sampled.work.rounds += before.work.rounds
            self.sampled.work.evaluations += before.work.evaluations
        return result

    def _called(
        self, given: dict[str, Any], changed: dict[str, Any], last: dict[str, Any], warm: Sampled | None = None
    ) -> Any:
        """One solve, with arguments changed in all walks but the last, and others in the last."""
        shown = not (getattr(self.pipe, "_progress_bar_config", None) or {}).get("disable", False)
        replicas = {name: each.calls() for name, each in self.replicas.items()}
        with Loop(self.pipe, given, self.max_batch, self._shapes, replicas) as loop:
            facts = loop.learn(**changed)
            if len(facts.times) < 2:
                self.sampled = None
                return loop.finish(None, **last)
            guess = self._warm if warm is None else warm.trajectory[: len(facts.times)]
            self.sampled = self._solved(loop, Watch(progress=shown), guess)
            return loop.finish(self.sampled.trajectory, **last)

    def _solved(self, loop: Loop, watch: Watch, guess: Tensor | None) -> Sampled:
        scheduler, facts = ready(loop), loop.facts
        own = (time if isinstance(time, Tensor) else torch.as_tensor(time, device="cpu") for time in facts.times)
        times = torch.stack(list(own)).cpu()
        schedule = schedule_of(scheduler, times, facts.options)
        table, guided = Coefficients.of(schedule, widened(facts.first)), is_guided(loop)
        warn_of_clipping(scheduler, schedule, guided=guided)
        if schedule.noisy:
            loop.generators.set(facts.states)
        inputs = inputs_of(scheduler, schedule, table, facts.first, facts.options, generator=facts.generator)
        recurrence = Denoising(
            table,
            schedule.clip,
            LoopNetwork(loop, table),
            widened(facts.first),
            stride=self.settings.stride(schedule),
            reuse=self.settings.radius(schedule, guided=guided),
            guided=guided,
            between=between_steps(loop),
        )
        found = denoise(recurrence, facts.first, inputs, self.settings, watch, guess)
        work = Work(loop.rounds, found.work.evaluations + loop.checks, found.work.products)
        return Sampled(found.sample, found.trajectory, times, work, found.correction, found.solution)


def ready(loop: Loop) -> Any:
    """A copy of the pipeline's scheduler as it was before its first step."""
    scheduler = object.__new__(type(loop.pipe.scheduler))
    scheduler.__dict__.update(copy.deepcopy(loop.facts.scheduler))
    return scheduler


def is_guided(loop: Loop) -> bool:
    """Whether a step asks for more predictions than there are samples; or has the samples twice, as in DiT's loop."""
    one, other = loop.facts.first.tensor_split(2)
    return loop.facts.images > len(loop.facts.first) or loop.facts.calls > 1 or torch.equal(one, other)
