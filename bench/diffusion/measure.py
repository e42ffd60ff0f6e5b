"""Samples by every method, and counts iterations, rounds and network calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.diffusion.paradigms import paradigms
from bench.diffusion.parataa import parataa
from bench.diffusion.srds import ddim_solvers, srds
from lds_iter.diffusion.noise import drawn
from lds_iter.diffusion.probe import schedule_of
from lds_iter.diffusion.sampled import Work
from lds_iter.diffusion.sampler import ParallelSampler
from lds_iter.diffusion.schedule import prepared
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.structured import Structured
from lds_iter.diffusion.task import Task
from recipes.diffusion.choices import DIGITS, load

SEEDS = {"DDIM": {20: 8, 50: 8, 100: 4, 250: 2, 1000: 1}, "DDPM": {20: 2, 50: 2, 100: 2, 250: 1, 1000: 1}}
FIRST_SEED = 4101
"""Of the samples reported. The settings of the methods were chosen on others, seeds below 300."""
THEIR_TOLERANCES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
OUR_TOLERANCES = (6e-2, 2e-2, 6e-3, 2e-3, 6e-4)
IN_BETWEEN = (3.5e-2, 1.1e-2, 3.5e-3)
"""Up to 250 steps, where runs are short; a round more or less is a factor of three in the error."""
ORDERS = (8, 20)
"""Of ParaTAA's equations, beside T."""
GOAL = 1e-3
NEWTON_STEPS = 50
"""Newton's method is run up to so many: it evaluates every step 65 times a round, on images of 64 numbers."""
LONG = (("DDIM", 1000), ("DDPM", 100), ("DDPM", 250), ("DDPM", 1000))
PEERS = {"ParaTAA, order 8", "ParaTAA, order 20", "ParaTAA, order T", "SRDS"}
NOT_RUN = {problem: {"Picard", "Structured"} | (PEERS if problem[1] == 1000 else set()) for problem in LONG}
"""More rounds than ParaDiGMS or `Secant` wherever they were run, and half of the whole bench's time."""


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

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1000 + self.seed)

    def row(self, method: str, tolerance: float, work: Work, sample: Tensor, truth: Tensor) -> Row:
        error = float((sample - truth).square().mean().sqrt())
        return Row(self.name, self.steps, self.seed, method, tolerance, work.rounds, work.evaluations, error)


def ours() -> dict[str, Callable[[ParallelSampler], ParallelSampler]]:
    """What is compared, by name."""
    return {
        "Secant, default": lambda sampler: replace(sampler, method=Secant()),
        "Secant, thinned": lambda sampler: replace(sampler, method=Secant(), reuse=0),
        "Secant": lambda sampler: replace(sampler, method=Secant(), thin=0, reuse=0),
        "Structured": lambda sampler: replace(sampler, method=Structured(), thin=0, reuse=0),
        "Picard": lambda sampler: replace(sampler, method=li.Picard(), thin=0, reuse=0),
        "Newton": lambda sampler: replace(sampler, method=li.Newton(), thin=0, reuse=0),
    }


def schedulers() -> dict[str, Any]:
    """The parallel schedulers of diffusers; without clipping, which all of them share."""
    from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
    from diffusers.schedulers.scheduling_ddpm_parallel import DDPMParallelScheduler

    return {"DDIM": DDIMParallelScheduler(clip_sample=False), "DDPM": DDPMParallelScheduler(clip_sample=False)}


def their_runs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, Iterator[Row]]]:
    """ParaDiGMS with all steps at once, and in a window of a hundred where there are more."""
    scheduler = problem.sampler.scheduler
    network = problem.sampler.network(Task(noise=problem.noise, conditioning=problem.conditioning))
    schedule, noises = schedule_of(*prepared(scheduler, problem.steps)), None
    if bool(schedule.draws.any()):
        fresh = drawn(schedule, problem.noise, problem.generator())
        noises = schedule.noise.float().view(-1, 1, 1, 1, 1) * fresh
    scheduler.set_timesteps(problem.steps)

    def run(name: str, window: int) -> Iterator[Row]:
        for tolerance in THEIR_TOLERANCES:
            sample, work = paradigms(network, scheduler, problem.noise, noises, parallel=window, tolerance=tolerance)
            yield problem.row(name, tolerance, work, sample, truth)

    for window in sorted({problem.steps, min(problem.steps, 100)}):
        name = "ParaDiGMS" if window == problem.steps else f"ParaDiGMS, window {window}"
        yield name, run(name, window)


def oracle_runs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, Iterator[Row]]]:
    """ParaTAA at three orders, and SRDS, which is for DDIM: a row for every round or pass, by its number."""
    scheduler = problem.sampler.scheduler
    network = problem.sampler.network(Task(noise=problem.noise, conditioning=problem.conditioning))
    schedule, added = schedule_of(*prepared(scheduler, problem.steps)), None
    if bool(schedule.draws.any()):
        added = schedule.noise.view(-1, 1, 1, 1, 1) * drawn(schedule, problem.noise, problem.generator())

    def rows(name: str, found: Iterator[tuple[Tensor, Work]]) -> Iterator[Row]:
        for number, (sample, work) in enumerate(found, 1):
            yield problem.row(name, number, work, sample, truth)

    for order in sorted({min(order, problem.steps) for order in (*ORDERS, problem.steps)}):
        name = f"ParaTAA, order {'T' if order == problem.steps else order}"
        yield name, rows(name, parataa(network, schedule, problem.noise, added, order=order))
    if added is None:
        ready, timesteps = prepared(scheduler, problem.steps)
        signal = torch.cat([ready.alphas_cumprod[timesteps], ready.final_alpha_cumprod.view(1)]).double()
        fine, coarse = ddim_solvers(network, signal, timesteps)
        yield "SRDS", rows("SRDS", srds(fine, coarse, problem.noise, problem.steps))


def our_runs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, Iterator[Row]]]:
    """The methods of the recipe; where noise is added nothing is thinned, and that line is left out."""
    tolerances = sorted(OUR_TOLERANCES + (IN_BETWEEN if problem.steps <= 250 else ()), reverse=True)

    def run(name: str, configured: Callable[[ParallelSampler], ParallelSampler]) -> Iterator[Row]:
        for tolerance in tolerances:
            sampler = configured(replace(problem.sampler, tol=tolerance))
            sampled = sampler(problem.noise, problem.steps, problem.conditioning, generator=problem.generator())
            work = Work(sampled.work.rounds, sampled.work.evaluations + sampled.work.products)
            yield problem.row(name, tolerance, work, sampled.sample, truth)

    for name, configured in ours().items():
        thinned, newton = name == "Secant, thinned", name == "Newton"
        if not (thinned and problem.name == "DDPM") and not (newton and problem.steps > NEWTON_STEPS):
            yield name, run(name, configured)


def until_good(runs: Iterator[Row]) -> Iterator[Row]:
    """Runs, the loosest tolerance first, up to the one that reaches the tightest bar: no later one is cheaper."""
    for row in runs:
        yield row
        if row.error <= GOAL:
            return


def measure(steps: list[int], seeds: int, known: list[Row], methods: set[str]) -> Iterator[Row]:
    """Every run of every problem; those of a method that is among the `known` rows are taken from there.

    `methods`: which; all if empty.
    """
    unet, _ = load(str(DIGITS), "cpu")
    for count in steps:
        for name, scheduler in schedulers().items():
            for seed in range(FIRST_SEED, FIRST_SEED + (seeds or SEEDS[name][count])):
                problem = Problem(name, ParallelSampler(unet, scheduler, max_batch=500), count, seed)
                loop = problem.sampler.step_by_step
                truth = loop(problem.noise, count, problem.conditioning, generator=problem.generator()).sample
                runs_of_all = (*their_runs(problem, truth), *oracle_runs(problem, truth), *our_runs(problem, truth))
                for method, runs in runs_of_all:
                    if method not in NOT_RUN.get((name, count), ()) and (not methods or method in methods):
                        yield from _found(known, problem, method) or until_good(runs)


def _found(known: list[Row], problem: Problem, method: str) -> list[Row]:
    """The known rows of one problem and method, if they are complete."""
    mine = (problem.name, problem.steps, problem.seed, method)
    rows = [row for row in known if (row.scheduler, row.steps, row.seed, row.method) == mine]
    last = (THEIR_TOLERANCES if method.startswith("ParaDiGMS") else OUR_TOLERANCES)[-1]
    return rows if any(row.error <= GOAL or row.tolerance == last for row in rows) else []
