"""Draws batches in parallel and step by step, and compares samples and counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lds_iter.diffusion.sampler import ParallelSampler
from lds_iter.diffusion.schedule import prepared
from recipes.diffusion.choices import DIGITS, NO_CLASS, load

STEPS = (7, 20, 33, 50, 100)
GUIDANCE = (1.0, 3.0, 7.5)
LABELS = torch.tensor([0, 2, 5, 8])
TOLERANCE = 1e-2
FIRST_SEED = 4101
"""What the defaults do under guidance and clipping was decided on seeds 500 to 502."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DDIM, clipped": ("DDIMScheduler", {"clip_sample": True}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {"clip_sample": False}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DDPM, clipped": ("DDPMScheduler", {"clip_sample": True}),
    "SDE-DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}
"""Name, class, and settings beside those of the network's own schedule."""


@dataclass(frozen=True)
class Run:
    """One batch.

    Attributes:
        length: calls of the model that the loop makes one after the other; Heun's are nearly two a step.
        work: evaluations per sample and step of the loop.
        error: of the batch.
        worst: of its worst sample.
    """

    scheduler: str
    steps: int
    guidance: float
    seed: int
    length: int
    rounds: int
    work: float
    error: float
    worst: float


def run(unet: Any, config: dict[str, Any], name: str, steps: int, guidance: float, seed: int) -> Run:
    """Draw a batch both ways."""
    import diffusers

    kind, settings = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind).from_config(config, **settings)
    noise = torch.randn(len(LABELS), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    noise = noise * float(getattr(prepared(scheduler, steps)[0], "init_noise_sigma", 1.0))
    options: dict[str, Any] = {}
    if guidance != 1:
        other = {"class_labels": torch.full_like(LABELS, NO_CLASS)}
        options = {"unconditional": other, "guidance_scale": guidance}
    sampler = ParallelSampler(unet, scheduler, tol=TOLERANCE, max_batch=256)
    parallel, loop = (
        draw(noise, steps, {"class_labels": LABELS}, generator=torch.Generator().manual_seed(1000 + seed), **options)
        for draw in (sampler, sampler.step_by_step)
    )
    errors = (parallel.sample - loop.sample).square().flatten(1).mean(1)
    length = loop.work.rounds
    work = parallel.work.evaluations / len(LABELS) / length
    error, worst = float(errors.mean().sqrt()), float(errors.max().sqrt())
    return Run(name, steps, guidance, seed, length, parallel.work.rounds, work, error, worst)


def measure(seeds: int, only: str, known: list[Run]) -> Iterator[Run]:
    """All runs; those that are among the `known` ones are taken from there."""
    unet, config = load(str(DIGITS), "cpu")
    found = {(each.scheduler, each.steps, each.guidance, each.seed): each for each in known}
    for name in (name for name in SCHEDULERS if only in name):
        for steps in STEPS:
            for guidance in GUIDANCE:
                for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                    case = name, steps, guidance, seed
                    yield found.get(case) or run(unet, config, *case)
