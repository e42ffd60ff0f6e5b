"""Predicts and counts the iterations of every case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common import problems
from bench.common.problems import Problem
from bench.counts.measure import label
from lds_iter.nn import GRURecurrence
from recipes.predictability.flows import FLOWS, observer, rollout
from recipes.predictability.flows import guess as flow_guess
from recipes.predictability.lorenz96 import lorenz96
from recipes.pretrained.networks import load_g2p, load_sleep

NEWTON, QUASI, PICARD, JACOBI = li.Newton(), li.QuasiNewton(), li.Picard(), li.Jacobi()


@dataclass(frozen=True)
class Case:
    """A problem, the methods to predict, and how much of it the prediction may see."""

    name: str
    problem: Problem
    methods: tuple[li.LDSApproximation, ...]
    prefix: int = 512
    guess: Tensor | Callable[..., Tensor] = li.repeat_initial
    atol: float | None = None
    unseen: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table; of several sequences the slowest.

    Attributes:
        unseen: whether the rules were fixed before this problem was tried.
        exponent: of the prefix, nats per step.
        efolds: how many e-folds the prefix spans.
        needed: how many it must span to be longer than the memory.
        law: how the count grows by the prefix; "unknown" where it cannot tell.
        cost: rows of `f` that the prediction evaluated, as a part of those of the full solve.
    """

    unseen: bool
    problem: str
    method: str
    length: int
    prefix: int
    exponent: float
    efolds: float
    needed: float
    law: str
    cost: float
    low: int
    predicted: int
    high: int
    actual: int


def cases(full: bool) -> Iterator[Case]:
    """Stable to chaotic; `full` adds what takes minutes."""
    for width, length in (1, 10_000), (4, 10_000), (16, 10_000), (8, 100_000):
        gru = problems.orthogonal_gru(width, length)
        yield Case(f"GRU, flax initialisation, D={width}", gru, (NEWTON, QUASI, JACOBI))
    yield Case("GRU, flax initialisation, D=8", problems.orthogonal_gru(8, 2_000), (PICARD,))
    yield Case("torch.nn.GRU, D=8", problems.default_gru(8, 100_000), (NEWTON, QUASI))
    yield Case("S5 word problem, D=5", problems.word_problem(2_000, start=torch.arange(1.0, 6.0)[:, None]), (NEWTON,))
    yield Case(
        "S5 word problem, D=5", problems.word_problem(1_000, start=torch.arange(1.0, 6.0)[:, None]), (QUASI,), 256
    )
    guess = problems.normal_guess(0)
    yield Case("Langevin, Gaussian mixture, D=32", problems.mixture_langevin(), (NEWTON, PICARD), 128, guess, 1.8e-4)
    for prefix in 512, 2_048:
        wells, guess = problems.two_well_langevin(20), problems.two_well_guess
        yield Case("Langevin, two wells, 20 seeds", wells, (NEWTON, QUASI), prefix, guess, 1e-5)
    for gain in (0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8):
        rnn, guess = problems.mean_field_rnn(gain, 32, 2_000), problems.uniform_guess(0)
        yield Case(f"mean-field RNN, g={gain}, D=32", rnn, (NEWTON,), 256, guess, 2.5e-6)
    for gain in (0.5, 0.8, 1.0):
        rnn, guess = problems.mean_field_rnn(gain, 32, 2_000), problems.uniform_guess(0)
        yield Case(f"mean-field RNN, g={gain}, D=32", rnn, (QUASI,), 256, guess, 2.5e-6)
    for gain in (0.8, 1.0, 1.2, 1.5, 1.8) if full else ():
        rnn, guess = problems.mean_field_rnn(gain), problems.uniform_guess(0)
        yield Case(f"mean-field RNN, g={gain}, D=100", rnn, (NEWTON,), 256, guess, 1.4e-6)


def more() -> Iterator[Case]:
    """Trained networks, observers and chaotic rings, in view as well."""
    text, sleep = load_g2p(1_000), load_sleep(10_800)
    for name, network, methods, prefix in ("g2p_en", text, (QUASI,), 256), ("sleepecg", sleep, (NEWTON, QUASI), 512):
        gru = GRURecurrence.from_module(network.gru)
        problem = Problem(gru, torch.zeros(network.gru.hidden_size), gru.inputs(network.x))
        yield Case(f"trained GRU({network.gru.hidden_size}), {name}", problem, methods, prefix)
    for name in "ABC", "Chua", "Rossler":
        yield _observer(name, 512)
    for forcing in (0.8, 2.0, 8.0):
        yield _ring(forcing, 600, 128)


def unseen(full: bool) -> Iterator[Case]:
    """Problems that were tried once the rules were fixed; `full` adds networks."""
    for name in "Kawczynski-Strizhak", "Lorenz", "Nose-Hoover", "SprottB", "Thomas", "Vallis El Nino":
        yield replace(_observer(name, 1_024), unseen=True)
    for forcing in (0.5, 1.0, 4.0, 6.0):
        yield replace(_ring(forcing, 1_200, 400), unseen=True)
    if full:
        yield from _more_networks()


def _more_networks() -> Iterator[Case]:
    for gain in (0.7, 0.9, 1.1, 1.3, 1.5):
        rnn, guess = problems.mean_field_rnn(gain, 24, 1_500, 3), problems.uniform_guess(3)
        yield Case(f"mean-field RNN, g={gain}, D=24", rnn, (NEWTON,), 300, guess, 2.5e-6, unseen=True)
    for gain in (0.6, 0.9):
        rnn, guess = problems.mean_field_rnn(gain, 24, 1_500, 3), problems.uniform_guess(3)
        yield Case(f"mean-field RNN, g={gain}, D=24", rnn, (QUASI, JACOBI), 300, guess, 2.5e-6, unseen=True)
    gru = problems.default_gru(12, 20_000, 5)
    yield Case("torch.nn.GRU, D=12", gru, (NEWTON, QUASI, JACOBI), 256, unseen=True)
    yield Case("torch.nn.GRU, D=12", problems.default_gru(12, 1_000, 5), (PICARD,), 256, unseen=True)
    yield Case("torch.nn.GRU, D=12", gru, (li.TrustRegion(NEWTON), li.LevenbergMarquardt(100.0)), 256, unseen=True)


def _observer(name: str, prefix: int) -> Case:
    problem = observer(FLOWS[name], rollout(FLOWS[name], 30_000, 0.01), 0.01)
    return Case(f"observer, {name}", problem, (NEWTON,), prefix, flow_guess(30_000), 8e-6)


def _ring(forcing: float, length: int, prefix: int) -> Case:
    ring, guess = lorenz96(forcing, 8, length), problems.normal_guess(0)
    return Case(f"Lorenz-96, F={forcing:g}, D=8", ring, (NEWTON,), prefix, guess, 5e-6)


def measure(case: Case) -> Iterator[Row]:
    """Predict, then count."""
    rtol = None if case.atol is None else 0.0
    for method in case.methods:
        options: dict[str, Any] = {"guess": case.guess, "rtol": rtol, "atol": case.atol}
        found = li.diagnostics.predict_iterations(*case.problem, method, prefix=case.prefix, **options)
        solution = li.solve(*case.problem, method, **options)
        exponent = float(found.exponent.largest.max())
        law = li.diagnostics.GrowthLaw(int(found.law.flatten()[found.high.flatten().argmax()]))
        yield Row(
            unseen=case.unseen,
            problem=case.name,
            method=label(method),
            length=found.length,
            prefix=found.prefix,
            exponent=exponent,
            efolds=abs(exponent) * found.prefix,
            needed=float(found.efolds.max()),
            law=law.name.lower(),
            cost=float(found.evaluations.sum() / solution.evaluations.sum()),
            low=int(found.low.max()),
            predicted=round(float(found.iterations.max())),
            high=math.ceil(float(found.high.max())),
            actual=int(solution.iterations.max()),
        )
