"""Counts the iterations of every case of the field's recipes, and compares states with those of the plain loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lds_iter as li
from bench.common.problems import Problem, mixture_langevin, two_well_guess, two_well_langevin
from recipes.control.cart_pole import ClosedLoop, OpenLoop
from recipes.langevin.measure import TOLERANCE, WIDEST, methods
from recipes.optimizer.problems import irises, tumours
from recipes.optimizer.training import SGD, AbstractOptimizer, Adam, Momentum, TextbookAdam, Training
from recipes.teacher_forcing.data import lorenz
from recipes.teacher_forcing.network import Forced, ShallowPLRNN
from recipes.teacher_forcing.training import choose_strength

NEWTON, TRUST = li.Newton(), li.TrustRegion(li.Newton())
PASO = "PASO (ICML 2026), language and diffusion models: up to 21 times fewer steps"

GTF = "GTF-DEER (arXiv 2605.12683): training more than 100 times faster at T > 10,000, on GPUs"
MIXTURE = "lindermanlab/parallelizing_with_lds, D = 32, eps = 1e-5, sum of squares to 5e-4: 3 to 5 iterations"
CONTROL = "parallel-ode (arXiv 2511.01465), cart-pole, 5,000,000 steps on a GPU: 65 s step by step, 0.42 s in parallel"
WELLS = "predictability paper, two wells: 12 to 25 by the median, about 40 at most, over 20 seeds"


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
        names: of the methods, where they say more than their text.
        guess: as `li.solve` takes it.
    """

    part: str
    name: str
    build: Callable[[], Problem]
    methods: tuple[tuple[Any, int | None], ...]
    published: str
    tolerance: float = 1e-6
    names: tuple[str, ...] = ()
    guess: Callable[..., Tensor] = li.repeat_initial


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


def forced_networks() -> Iterator[Case]:
    """A network at initialisation under forcing, along Lorenz-63; training itself is the recipe's."""

    def forced(length: int) -> Problem:
        torch.manual_seed(0)
        network, data = ShallowPLRNN(), lorenz(length + 1)
        return Problem(Forced(network, choose_strength(network, data)), data[0], data[:-1])

    for length in 1_000, 10_000, 30_000:
        yield Case(
            "teacher_forcing", "shallow PLRNN, 50 units, Lorenz-63", lambda length=length: forced(length),
            ((NEWTON, None), (li.QuasiNewton(), None)), GTF, 1e-8,
        )  # fmt: skip


def mixtures() -> Iterator[Case]:
    """Langevin dynamics on two Gaussians; the methods are the recipe's."""
    for width in 32, 64, 128, 256:
        for step in 1e-5, 1e-4:
            problem = mixture_langevin(width, 1_000, step)
            chosen = {name: way for name, way in methods(problem).items() if width <= WIDEST[name]}
            yield Case(
                "langevin", f"mixture, D = {width}, eps = {step:g}", lambda problem=problem: problem,
                tuple((way, None) for name, way in chosen.items() if name != "exact diagonal"), MIXTURE, TOLERANCE,
                names=tuple(name for name in chosen if name != "exact diagonal"),
            )  # fmt: skip
    problem = two_well_langevin(4, 10_000)
    ways = ((NEWTON, None), (TRUST, None), (li.QuasiNewton(), None))
    yield Case(
        "langevin", "two wells, D = 2, eps = 0.01", lambda: problem, ways, WELLS, 1e-5, guess=two_well_guess
    )  # fmt: skip


def controllers() -> Iterator[Case]:
    """A cart and its pole: hanging under random forces, and upright under feedback and pushes."""
    chance = torch.Generator().manual_seed(0)
    pushes = 2 * torch.randn(100_000, generator=chance, dtype=torch.float64)
    hanging, upright = (torch.tensor([0, angle, 0, 0], dtype=torch.float64) for angle in (math.pi, 0.1))
    gains = torch.tensor([-0.1, -4.0, -0.2, -0.8], dtype=torch.float64)
    ways = ((NEWTON, None), (TRUST, None))
    for length in 300, 3_000:
        problem = Problem(OpenLoop(0.01), hanging, 0.1 * pushes[:length])
        yield Case("control", "cart-pole, hanging", lambda problem=problem: problem, ways, CONTROL, 1e-9)
    for length in 10_000, 100_000:
        problem = Problem(ClosedLoop(gains, 0.01), upright, pushes[:length])
        yield Case("control", "cart-pole, held upright", lambda problem=problem: problem, ways, CONTROL, 1e-9)


PARTS = {"optimizer": optimizers, "teacher_forcing": forced_networks, "langevin": mixtures, "control": controllers}


def measure(part: str) -> Iterator[Row]:
    """A row for every case and method of a recipe, as it is done."""
    for case in PARTS[part]():
        problem = case.build()
        few = pytree.tree_map(lambda leaf: leaf[:8], problem.inputs)
        li.sequential(problem.f, problem.s0, few)  # compilers and caches
        begin = time.perf_counter()
        with torch.no_grad():
            truth = li.sequential(*problem)
        loop = time.perf_counter() - begin
        for number, (method, window) in enumerate(case.methods):
            li.solve(problem.f, problem.s0, few, method)
            begin = time.perf_counter()
            with torch.no_grad():
                solution = li.solve(
                    *problem, method, guess=case.guess, window=window, rtol=case.tolerance, atol=case.tolerance,
                    max_iters=100, throw=False,
                )  # fmt: skip
            name = case.names[number] if case.names else repr(method) + ("" if window is None else f", window {window}")
            yield Row(
                case.part, case.name, len(truth), name,
                int(solution.iterations.max()) if solution.converged else None,
                float((solution.states - truth).abs().max()), time.perf_counter() - begin, loop, case.published,
            )  # fmt: skip
