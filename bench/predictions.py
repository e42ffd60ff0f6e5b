"""How good `li.diagnostics.predict_iterations` is: `python -m bench.predictions [--full]`.

Every problem is predicted from its first steps, and then solved in full. Counts do not depend on hardware. Prints a
table, writes `bench/results/predictions.json` and, from that alone, `docs/background/predictions.md`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from torch import Tensor

import lds_iter as li
from bench import problems
from bench.counts import label
from bench.machine import describe
from bench.pages import keep
from bench.problems import Problem
from lds_iter.nn import GRURecurrence
from recipes.predictability.flows import FLOWS, observer, rollout
from recipes.predictability.flows import guess as flow_guess
from recipes.predictability.lorenz96 import lorenz96
from recipes.pretrained.networks import load_g2p, load_sleep

ROOT = Path(__file__).parent.parent
JSON = ROOT / "bench" / "results" / "predictions.json"
PAGE = ROOT / "docs" / "background" / "predictions.md"
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
        unseen: whether the rule of extrapolation was fixed before this problem was tried.
    """

    unseen: bool
    problem: str
    method: str
    length: int
    prefix: int
    exponent: float
    counted: int
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


def unseen() -> Iterator[Case]:
    """Problems on which the rule of extrapolation was not chosen: trained networks, observers and a chaotic ring."""
    text, sleep = load_g2p(1_000), load_sleep(10_800)
    for name, network, methods in ("g2p_en", text, (QUASI,)), ("sleepecg", sleep, (NEWTON, QUASI)):
        gru = GRURecurrence.from_module(network.gru)
        problem = Problem(gru, torch.zeros(network.gru.hidden_size), gru.inputs(network.x))
        title = f"trained GRU({network.gru.hidden_size}), {name}"
        yield Case(title, problem, methods, 256 if name == "g2p_en" else 512, unseen=True)
    for name in "ABC", "Chua", "Rossler":
        problem = observer(FLOWS[name], rollout(FLOWS[name], 30_000, 0.01), 0.01)
        yield Case(f"observer, {name}", problem, (NEWTON,), 512, flow_guess(30_000), 8e-6, unseen=True)
    for forcing in (0.8, 2.0, 8.0):
        ring, guess = lorenz96(forcing, 8, 600), problems.normal_guess(0)
        yield Case(f"Lorenz-96, F={forcing:g}, D=8", ring, (NEWTON,), 128, guess, 5e-6, unseen=True)


def measure(case: Case) -> Iterator[Row]:
    """Predict, then count."""
    exponent = float(li.diagnostics.lyapunov(*case.problem, prefix=case.prefix).largest.max())
    rtol = None if case.atol is None else 0.0
    for method in case.methods:
        options: dict[str, Any] = {"guess": case.guess, "rtol": rtol, "atol": case.atol}
        found = li.diagnostics.predict_iterations(*case.problem, method, prefix=case.prefix, **options)
        solution = li.solve(*case.problem, method, **options)
        yield Row(
            unseen=case.unseen,
            problem=case.name,
            method=label(method),
            length=found.length,
            prefix=found.prefix,
            exponent=exponent,
            counted=int(found.counted.max()),
            low=int(found.low.max()),
            predicted=round(float(found.iterations.max())),
            high=round(float(found.high.max())),
            actual=int(solution.iterations.max()),
        )


def _inside(row: dict[str, Any]) -> bool:
    return row["low"] <= row["actual"] <= row["high"]


def _score(rows: list[dict[str, Any]], *, unseen: bool) -> str:
    """How often the prediction was close, and how often the count lay within the range."""
    group = [row for row in rows if row["unseen"] == unseen]
    close = sum(row["actual"] / 1.5 <= row["predicted"] <= row["actual"] * 1.5 for row in group)
    inside = sum(_inside(row) for row in group)
    return (
        f"{close} of {len(group)} predictions are right within a factor of 1.5, and {inside} of {len(group)} counts "
        "lie between *low* and *high*"
    )


REMARKS = (
    "Where it goes wrong:",
    "",
    "- Far too low, where the prefix is shorter than the memory of the recurrence: 128 steps of the Lorenz-96 ring at",
    "  F = 2 are a third of an e-fold. `Lyapunov.memory` tells how long the memory is; take several times that.",
    "- Too low, where the count grows beyond the prefix more than within it: the two wells from 512 steps (21 for 35),",
    "  a trained network on text, Picard on the mixture.",
    "- Too high, where the count grows steeply within the prefix and then stops: quasi-Newton on the mean-field",
    "  network, Chua's observer; so a longer prefix is not always better (the two wells from 2,048 steps, 66 for 35).",
)
"""What to learn from the rows that are wrong."""


def page(results: dict[str, Any]) -> str:
    """The page of the guide."""
    rows = results["rows"]
    command = "python -m bench.predictions" + (" --full" if results["full"] else "")
    lines = [
        "# Predicted and actual iterations",
        "",
        "`li.diagnostics.predict_iterations` solves a prefix and extrapolates its count by a power law; this page",
        f"holds it against full solves. Made by `{command}`, torch {results['torch']}.",
        "The prediction saw the first *prefix* steps, which took *low* iterations; of several sequences in a batch the",
        "slowest one counts. The exponent (nats per step) is that of the prefix. The rule was chosen with most of",
        "these problems in view, so those marked *unseen*, which were tried afterwards, are the test.",
        "",
        f"On the problems in view, {_score(rows, unseen=False)}; on the unseen ones, {_score(rows, unseen=True)}. The",
        "range is wide: it begins at the count of the prefix.",
        "",
        *REMARKS,
        "",
        "| problem | method | T | prefix | exponent | low | predicted | high | actual | |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        marks = ["unseen"] * row["unseen"] + ["**outside**"] * (not _inside(row))
        numbers = [f"{row[key]:,}" for key in ("low", "predicted", "high", "actual")]
        head = [row["problem"], row["method"], f"{row['length']:,}", f"{row['prefix']:,}", f"{row['exponent']:+.4f}"]
        lines.append("| " + " | ".join([*head, *numbers, ", ".join(marks)]) + " |")
    return "\n".join(lines) + "\n"


def main(full: bool = False) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console, rows = Console(), []
    for case in itertools.chain(cases(full), unseen()):
        for row in measure(case):
            rows.append(asdict(row))
            console.print(" | ".join(str(value) for value in rows[-1].values()), soft_wrap=True)
    results = {**describe(), "full": full, "rows": rows}
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
