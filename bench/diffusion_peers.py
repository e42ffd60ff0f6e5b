"""The peers of `bench.diffusion`: ParaDiGMS at tolerances of its own; ParaTAA and SRDS stopped by an oracle."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.diffusion_problem import Problem, Row
from bench.paradigms import paradigms
from bench.parataa import parataa
from bench.srds import ddim_solvers, srds
from lds_iter.diffusion.noise import drawn
from lds_iter.diffusion.probe import schedule_of
from lds_iter.diffusion.sampled import Work
from lds_iter.diffusion.schedule import prepared

THEIR_TOLERANCES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
ORDERS = (8, 20)
"""Of ParaTAA's equations, beside T."""


def their_runs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, Iterator[Row]]]:
    """ParaDiGMS with all steps at once, and in a window of a hundred where there are more."""
    scheduler = problem.sampler.scheduler
    network = problem.sampler.network(problem.task)
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
    network = problem.sampler.network(problem.task)
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
