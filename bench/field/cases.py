"""The cases of the field's recipes: problems, the methods to run on each, and what their sources report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.problems import Problem, mixture_langevin, two_well_guess, two_well_langevin
from recipes.cells.cells import CELLS
from recipes.control.cart_pole import ClosedLoop, OpenLoop
from recipes.langevin.measure import TOLERANCE, WIDEST, methods
from recipes.optimizer.curvature import GaussNewton, PerParameter
from recipes.optimizer.problems import Task, irises, network, tumours
from recipes.optimizer.training import SGD, AbstractOptimizer, Adam, Momentum, TextbookAdam, Training
from recipes.teacher_forcing.data import lorenz
from recipes.teacher_forcing.network import Forced, ShallowPLRNN
from recipes.teacher_forcing.training import choose_strength
from recipes.word_problem.groups import GROUPS, matrices
from recipes.word_problem.models import ByMatrix
from recipes.word_problem.training import words_of

NEWTON, TRUST = li.Newton(), li.TrustRegion(li.Newton())
PASO = "PASO (ICML 2026), language and diffusion models: up to 21 times fewer steps"

GTF = "GTF-DEER (arXiv 2605.12683): training more than 100 times faster at T > 10,000, on GPUs"
MIXTURE = "lindermanlab/parallelizing_with_lds, D = 32, eps = 1e-5, sum of squares to 5e-4: 3 to 5 iterations"
CONTROL = "parallel-ode (arXiv 2511.01465), cart-pole, 5,000,000 steps on a GPU: 65 s step by step, 0.42 s in parallel"
WORDS = "lindermanlab/parallelizing_with_lds, S5, T = 1,000: Newton 1, quasi-Newton by one probe 970 to 990"
CELL = "ParaRNN (ICLR 2026): 3 Newton iterations for ParaGRU and ParaLSTM, without a look at the residual"
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
        most: iterations before it gives up.
    """

    part: str
    name: str
    build: Callable[[], Problem]
    methods: tuple[tuple[Any, int | None], ...]
    published: str
    tolerance: float = 1e-6
    names: tuple[str, ...] = ()
    guess: Callable[..., Tensor] = li.repeat_initial
    most: int = 100


def optimizers() -> Iterator[Case]:
    """Trainings."""

    def training(task: Callable[[], Any], optimizer: AbstractOptimizer, rate: float, steps: int) -> Problem:
        return _training(task(), optimizer, rate, steps)

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

    yield from wide_trainings()


def wide_trainings() -> Iterator[Case]:
    """Logistic regression by blocks, and a network of 609 parameters, by what needs no Jacobian."""
    small, wide = tumours(), network()
    problem = _training(small, Adam(), 0.01, 1000)
    yield Case(
        "optimizer", "Adam, logistic regression, 10 parameters", lambda: problem, ((li.BlockNewton(3), None),), PASO,
        names=("3 x 3 blocks",),
    )  # fmt: skip
    for name, kind, rate in ("SGD", SGD(), 0.1), ("momentum", Momentum(), 0.02), ("Adam", Adam(), 0.01):
        problem = _training(wide, kind, rate, 1000)
        blocks = PerParameter(wide, Training(wide.loss, wide.data, kind))
        ways = [("Gauss-Newton, LowRank", GaussNewton(wide), None)] * (name == "SGD")
        size = {"SGD": "diagonal", "momentum": "2 x 2 blocks", "Adam": "3 x 3 blocks"}[name]
        ways += [(size, blocks, None), (f"{size}, window 100", blocks, 100), ("Picard, window 30", li.Picard(), 30)]
        yield Case(
            "optimizer", f"{name}, network, 609 parameters", lambda problem=problem: problem,
            tuple((method, window) for _, method, window in ways), PASO, names=tuple(name for name, _, _ in ways),
            most=1000,
        )  # fmt: skip


def _training(task: Task, optimizer: AbstractOptimizer, rate: float, steps: int) -> Problem:
    step = Training(task.loss, task.data, optimizer)
    return Problem(step, step.start(task.x), step.inputs(rate, steps, 16))


def words() -> Iterator[Case]:
    """Five things moved by the permutations of a group; the diagonals of their matrices say little."""
    for group in GROUPS:
        for length in 1_000, 10_000:
            letters = words_of(group, length, 1, torch.Generator().manual_seed(0))
            problem = Problem(ByMatrix(), torch.arange(5.0)[None], matrices(group)[letters])
            quasi = ((li.QuasiNewton(), None), (li.QuasiNewton(li.Hutchinson()), None)) if length == 1_000 else ()
            yield Case(
                "word_problem", f"{group}, D = 5", lambda problem=problem: problem, ((NEWTON, None), *quasi), WORDS,
                most=length,
            )  # fmt: skip


def new_cells() -> Iterator[Case]:
    """Cells at initialisation on noise, 16 units, which `Newton` solves in the structure that they declare."""
    for name, (kind, structure) in CELLS.items():
        for length in 1_000, 10_000:
            torch.manual_seed(0)
            cell = kind(3, 16)
            with torch.no_grad():
                x = torch.randn(length, 1, 3)
                given = cell.inputs(x) if hasattr(cell, "linearize") else x
            step = cell if hasattr(cell, "linearize") else lambda s, u, cell=cell: cell(u, s)
            problem = Problem(step, torch.zeros(1, cell.hidden_size), given)
            yield Case("cells", f"{name}, {structure}", lambda problem=problem: problem, ((NEWTON, None),), CELL, 1e-5)


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


PARTS = {
    "optimizer": optimizers, "teacher_forcing": forced_networks, "word_problem": words, "cells": new_cells,
    "langevin": mixtures, "control": controllers,
}  # fmt: skip
