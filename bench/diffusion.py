"""Denoising in parallel against ParaDiGMS, ParaTAA and SRDS, by counts: `python -m bench.diffusion`.

The same network (the digits of `recipes.diffusion`), the same noise, one sample at a time. ParaDiGMS and `lds_iter` are
run at tolerances of their own, the loosest first, until the final sample is within 1e-3; what counts for a bar of 1e-2
or 1e-3 is the run with the fewest rounds whose final sample is within the bar, root mean square, of what the scheduler
draws step by step. ParaTAA and SRDS are stopped by an oracle, in the round in which their sample is within the bar, and
ParaTAA at the best of three orders. Rounds and evaluations do not depend on the machine.

Writes `bench/results/diffusion.json` and, from that alone, `docs/background/diffusion.md`. Runs that end are also
written to `out/diffusion-rows.jsonl`, line by line; with `--resume` those found there are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import typer
from torch import Tensor

import lds_iter as li
from bench.diffusion_page import PAGE, page
from bench.diffusion_peers import THEIR_TOLERANCES, oracle_runs, their_runs
from bench.diffusion_problem import Problem, Row, schedulers
from bench.machine import describe
from bench.pages import keep
from lds_iter.diffusion.sampler import ParallelSampler
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.structured import Structured
from recipes.diffusion.choices import DIGITS, load

ROOT = Path(__file__).parent.parent
JSON = ROOT / "bench" / "results" / "diffusion.json"
LINES = ROOT / "out" / "diffusion-rows.jsonl"
SEEDS = {"DDIM": {20: 4, 50: 8, 100: 4, 250: 1, 1000: 1}, "DDPM": {20: 2, 50: 2, 100: 2, 250: 1, 1000: 1}}
FIRST_SEED = 20
"""Of the samples reported. The settings of the methods were chosen on others, seeds 100 to 115 of 50 and 100 steps."""
OUR_TOLERANCES = (6e-2, 2e-2, 6e-3, 2e-3, 6e-4)
IN_BETWEEN = (3.5e-2, 1.1e-2, 3.5e-3)
"""Up to a hundred steps, where runs are short; a round more or less is a factor of three in the error."""
GOAL = 1e-3
LONG = (("DDIM", 1000), ("DDPM", 100), ("DDPM", 250), ("DDPM", 1000))
PEERS = {"ParaTAA, order 8", "ParaTAA, order 20", "ParaTAA, order T", "SRDS"}
NOT_RUN = {problem: {"Picard", "Structured"} | (PEERS if problem[1] == 1000 else set()) for problem in LONG}
"""More rounds than ParaDiGMS or `Secant` wherever they were run, and half of the whole bench's time."""


def ours() -> dict[str, Callable[[ParallelSampler], ParallelSampler]]:
    """What is compared, by name."""
    return {
        "Secant, default": lambda sampler: replace(sampler, method=Secant()),
        "Secant, thinned": lambda sampler: replace(sampler, method=Secant(), reuse=0),
        "Secant": lambda sampler: replace(sampler, method=Secant(), thin=0, reuse=0),
        "Structured": lambda sampler: replace(sampler, method=Structured(), thin=0, reuse=0),
        "Picard": lambda sampler: replace(sampler, method=li.Picard(), thin=0, reuse=0),
    }


def our_runs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, Iterator[Row]]]:
    """The methods of the recipe; where noise is added nothing is thinned, and that line is left out."""
    tolerances = sorted(OUR_TOLERANCES + (IN_BETWEEN if problem.steps <= 100 else ()), reverse=True)

    def run(name: str, configured: Callable[[ParallelSampler], ParallelSampler]) -> Iterator[Row]:
        for tolerance in tolerances:
            sampler = configured(replace(problem.sampler, tol=tolerance))
            sampled = sampler(problem.noise, problem.steps, problem.conditioning, generator=problem.generator())
            yield problem.row(name, tolerance, sampled.work, sampled.sample, truth)

    for name, configured in ours().items():
        if problem.name == "DDIM" or name != "Secant, thinned":
            yield name, run(name, configured)


def until_good(runs: Iterator[Row]) -> Iterator[Row]:
    """Runs, the loosest tolerance first, up to the one that reaches the tightest bar: no later one is cheaper."""
    for row in runs:
        yield row
        if row.error <= GOAL:
            return


def measure(steps: list[int], seeds: int, known: list[Row]) -> Iterator[Row]:
    """Every run of every problem; those of a method that is among the `known` rows are taken from there."""
    unet, _ = load(str(DIGITS), "cpu")
    for count in steps:
        for name, scheduler in schedulers().items():
            for seed in range(FIRST_SEED, FIRST_SEED + (seeds or SEEDS[name][count])):
                problem = Problem(name, ParallelSampler(unet, scheduler, max_batch=500), count, seed)
                loop = problem.sampler.step_by_step
                truth = loop(problem.noise, count, problem.conditioning, generator=problem.generator()).sample
                runs_of_all = (*their_runs(problem, truth), *oracle_runs(problem, truth), *our_runs(problem, truth))
                for method, runs in runs_of_all:
                    if method not in NOT_RUN.get((name, count), ()):
                        yield from _found(known, problem, method) or until_good(runs)


def _found(known: list[Row], problem: Problem, method: str) -> list[Row]:
    """The known rows of one problem and method, if they are complete."""
    mine = (problem.name, problem.steps, problem.seed, method)
    rows = [row for row in known if (row.scheduler, row.steps, row.seed, row.method) == mine]
    last = (THEIR_TOLERANCES if method.startswith("ParaDiGMS") else OUR_TOLERANCES)[-1]
    return rows if any(row.error <= GOAL or row.tolerance == last for row in rows) else []


def main(steps: str = "20,50,100,250,1000", seeds: int = 0, resume: bool = False) -> None:
    """Measure, print, and write the JSON file and the page.

    Args:
        steps: which, separated by commas.
        seeds: how many samples of each; a number that shrinks with the steps when 0.
        resume: keep the runs that a former call wrote down, which must have been of the same code.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen = [int(count) for count in steps.split(",")]
    lines = LINES.read_text().splitlines() if resume and LINES.exists() else []
    known, rows = list(dict.fromkeys(Row(**json.loads(line)) for line in lines)), []
    LINES.parent.mkdir(exist_ok=True)
    with LINES.open("a" if resume else "w") as file:
        for row in measure(chosen, seeds, known):
            rows.append(asdict(row))
            print(*rows[-1].values(), flush=True)
            if row not in known:
                print(json.dumps(rows[-1]), file=file, flush=True)
    results = {**describe(), "steps": chosen, "rows": rows}
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
