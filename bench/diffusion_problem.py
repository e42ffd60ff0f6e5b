"""What `bench.diffusion` draws: samples of the digits of `recipes.diffusion`, noise and class by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.sampled import Work
from lds_iter.diffusion.sampler import ParallelSampler
from lds_iter.diffusion.task import Task


@dataclass(frozen=True)
class Row:
    """One run."""

    scheduler: str
    steps: int
    seed: int
    method: str
    tolerance: float
    rounds: int
    evaluations: int
    error: float


@dataclass(frozen=True)
class Problem:
    """One sample to draw: a scheduler, its steps, and the sampler that runs it, noise and class by the seed."""

    name: str
    sampler: ParallelSampler
    steps: int
    seed: int

    @property
    def noise(self) -> Tensor:
        return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(self.seed))

    @property
    def conditioning(self) -> dict[str, Tensor]:
        return {"class_labels": torch.tensor([self.seed % 10])}

    @property
    def task(self) -> Task:
        return Task(
            noise=self.noise,
            num_inference_steps=self.steps,
            conditioning=self.conditioning,
            generator=self.generator(),
        )

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1000 + self.seed)

    def row(self, method: str, tolerance: float, work: Work, sample: Tensor, truth: Tensor) -> Row:
        error = float((sample - truth).square().mean().sqrt())
        return Row(self.name, self.steps, self.seed, method, tolerance, work.rounds, work.evaluations, error)


def schedulers() -> dict[str, Any]:
    """The parallel schedulers of diffusers; without clipping, which all of them share."""
    from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
    from diffusers.schedulers.scheduling_ddpm_parallel import DDPMParallelScheduler

    return {"DDIM": DDIMParallelScheduler(clip_sample=False), "DDPM": DDPMParallelScheduler(clip_sample=False)}
