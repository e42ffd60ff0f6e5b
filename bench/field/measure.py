"""Counts the iterations of every case of the field's recipes, and compares states with those of the plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import lds_iter as li
from bench.common.problems import Problem
from recipes.optimizer.problems import irises, tumours
from recipes.optimizer.training import SGD, AbstractOptimizer, Adam, Momentum, TextbookAdam, Training

NEWTON, TRUST = li.Newton(), li.TrustRegion(li.Newton())
PASO = "PASO (ICML 2026), language and diffusion models: up to 21 times fewer steps"


@dataclass(frozen=True)
class Case:
    """One problem with the methods to run on it.

    Attributes:
        part: the recipe.
        name: of the problem.
        build: makes it.
        methods: with the window of each, None for all steps.
        published: what a source reports for its own problem of this kind.
        tolerance: relative and absolute.
        guess: as `li.solve` takes it.
    """

    part: str
    name: str
    build: Callable[[], Problem]
    methods: tuple[tuple[Any, int | None], ...]
    published: str
    tolerance: float = 1e-6
    guess: Any = li.repeat_initial


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        iterations: the largest count of the batch; None where it gave up.
        error: the largest difference to the states of the loop.
        seconds, loop_seconds: of the solve and of the loop, forward, on this machine.
    """

    part: str
    problem: str
    steps: int
    method: str
    iterations: int | None
    error: float
    seconds: float
    loop_seconds: float
    published: str


def optimizers() -> Iterator[Case]:
    """Trainings."""

    def training(task: Callable[[], Any], optimizer: AbstractOptimizer, rate: float, steps: int) -> Problem:
        problem = task()
        step = Training(problem.loss, problem.data, optimizer)
        return Problem(step, step.start(problem.x), step.inputs(rate, steps, 16))

    kinds = (("SGD", SGD(), 0.1), ("momentum", Momentum(), 0.02), ("Adam", Adam(), 0.01))
    whole = ((NEWTON, None), (TRUST, None), (li.QuasiNewton(), None))
    for name, kind, rate in kinds:
        yield Case(
            "optimizer", f"{name}, logistic regression, 10 parameters",
            lambda kind=kind, rate=rate: training(tumours, kind, rate, 1000), whole, PASO,
        )  # fmt: skip
    yield Case(
        "optimizer", "Adam in m and v, the same", lambda: training(tumours, TextbookAdam(), 0.01, 1000), whole, PASO
    )
    for name, kind, rate in kinds:
        yield Case(
            "optimizer", f"{name}, network, 35 parameters",
            lambda kind=kind, rate=rate: training(irises, kind, rate, 500), ((NEWTON, 100), (TRUST, None)), PASO,
        )  # fmt: skip


PARTS = {"optimizer": optimizers}


def measure(part: str) -> Iterator[Row]:
    """A row for every case and method of a recipe, as it is done."""
    for case in PARTS[part]():
        problem = case.build()
        begin = time.perf_counter()
        with torch.no_grad():
            truth = li.sequential(*problem)
        loop = time.perf_counter() - begin
        for method, window in case.methods:
            begin = time.perf_counter()
            with torch.no_grad():
                solution = li.solve(
                    *problem, method, guess=case.guess, window=window, rtol=case.tolerance, atol=case.tolerance,
                    max_iters=200, throw=False,
                )  # fmt: skip
            name = repr(method) + ("" if window is None else f", window {window}")
            yield Row(
                case.part, case.name, len(truth), name,
                int(solution.iterations.max()) if solution.converged else None,
                float((solution.states - truth).abs().max()), time.perf_counter() - begin, loop, case.published,
            )  # fmt: skip
