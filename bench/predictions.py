"""How good `li.diagnostics.predict_iterations` is: `python -m bench.predictions [--full]`.

Every problem is predicted from its first steps, and then solved in full. Counts do not depend on hardware. Prints a
table, writes `bench/results/predictions.json` and, from that alone, `docs/background/predictions.md`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
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
        law = li.diagnostics.Law(int(found.law.flatten()[found.high.flatten().argmax()]))
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


def _inside(row: dict[str, Any]) -> bool:
    return row["low"] <= row["actual"] <= row["high"]


def _score(rows: list[dict[str, Any]]) -> str:
    """How often the range held, and how wide it was."""
    told = [row for row in rows if row["law"] != "unknown"]
    inside = sum(_inside(row) for row in told)
    close = sum(row["actual"] / 1.5 <= row["predicted"] <= row["actual"] * 1.5 for row in told)
    width = statistics.median(row["high"] / max(1, row["low"]) for row in told)
    return (
        f"{len(rows)} predictions, of which {len(rows) - len(told)} say no more than *at least*; of the other "
        f"{len(told)}, {inside} ranges hold the actual count (*high* is {width:.1f} times *low* in the median), and "
        f"{close} numbers are right within a factor of 1.5"
    )


REMARKS = (
    "- *Unknown* is not *many*. Where the memory is longer than the prefix, most counts stayed where they were (the",
    "  observers of ABC and SprottB) and some did not (Lorenz-96 at F = 2: 5 became 20; the network that reads text:",
    "  65 became 268). The prefix cannot tell these apart. `Prediction.enough` says which prefix could.",
    "- Ranges are narrow where the count has settled or grows in proportion, wide while it is on its way: quasi-Newton",
    "  on the mean-field network at g = 1.0 had 199 iterations after 256 steps and settles at 212.",
    "- A regime that begins after the prefix is seen by no rule of this kind. Between two wells a single sequence may",
    "  look settled for thousands of steps, until it crosses over.",
)
"""What to learn from the rows."""


def page(results: dict[str, Any]) -> str:
    """The page of the guide."""
    rows = results["rows"]
    command = "python -m bench.predictions" + (" --full" if results["full"] else "")
    seen, fresh = ([row for row in rows if row["unseen"] == kind] for kind in (False, True))
    costs = [row["cost"] for row in rows]
    lines = [
        "# Predicted and actual iterations",
        "",
        "`li.diagnostics.predict_iterations` solves a prefix, takes its Lyapunov exponent, and says how the count",
        "grows from there, or that the prefix cannot tell. This page holds it against full solves. Made by",
        f"`{command}`, torch {results['torch']}. The rules were chosen with the problems of the first table in view;",
        "those of the second were tried once the rules were fixed, and are the test.",
        "",
        f"- In view: {_score(seen)}.",
        f"- Unseen: {_score(fresh)}.",
        f"- Cost: between {min(costs):.1%} and {max(costs):.0%} of the rows of `f` that the solve evaluates, "
        f"{statistics.median(costs):.1%} in the median.",
        "",
        *REMARKS,
        "",
        "*e-folds*: how many the prefix spans (its length times its exponent, nats per step), of how many that its",
        "memory takes (from the residual of the guess to the tolerance). *low*, *predicted*, *high*: the range and the",
        "number; *high* is T where the law is unknown. *cost*: rows of `f` evaluated by the prediction, as a part of",
        "those of the solve. Of several sequences in a batch the slowest counts.",
        "",
        "## In view",
        "",
        *_table(seen),
        "",
        "## Unseen",
        "",
        *_table(fresh),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| problem | method | T | prefix | exponent | e-folds | law | low | predicted | high | actual | cost | |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        head = [row["problem"], row["method"], f"{row['length']:,}", f"{row['prefix']:,}", f"{row['exponent']:+.4f}"]
        memory = f"{row['efolds']:.2g} of {row['needed']:.2g}"
        known = row["law"] != "unknown"
        range_ = [f"{row['low']:,}", f"{row['predicted']:,}" if known else "", f"{row['high']:,}" if known else ""]
        tail = [f"{row['actual']:,}", f"{row['cost']:.1%}", "" if _inside(row) else "**outside**"]
        lines.append("| " + " | ".join([*head, memory, row["law"], *range_, *tail]) + " |")
    return lines


def main(full: bool = False) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console, rows = Console(), []
    for case in itertools.chain(cases(full), more(), unseen(full)):
        for row in measure(case):
            rows.append(asdict(row))
            console.print(" | ".join(str(value) for value in rows[-1].values()), soft_wrap=True)
    results = {**describe(), "full": full, "rows": rows}
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
