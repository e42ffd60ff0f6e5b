"""What a guess saves `li.Auto()`: `python -m bench.auto_guesses`.

Two tables. Iterations from several guesses, which are exact on any machine; "another's states" are the solution for
other inputs of the same kind, and Jacobi sweeps count as iterations, though each costs less than one of the method.
And training on one whole series, real ones of glucose, with an `Auto` that may begin at the states of the step before,
beside one that may not: the same network twice, in turns, medians over the later half of the steps. Writes
`bench/results/<device>/auto_guesses.json` and a section of `docs/learn/auto.md`; wants a quiet machine.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import lds_iter as li
from bench import problems
from bench.auto import PAGE
from bench.machine import describe, results_folder
from bench.pages import between, markdown
from lds_iter.nn.gru import GRURecurrence
from recipes.gru.glucose import load_glucose
from recipes.pretrained.networks import load_sleep

COMMAND = "python -m bench.auto_guesses"

SWEEPS = 8
"""Jacobi sweeps in front."""

STEPS = 60
"""Of training; what is learnt first changes most."""

NETWORKS = (8, 2_000, 1), (8, 17_984, 1), (32, 2_000, 1), (32, 17_984, 1), (64, 2_000, 8), (128, 2_000, 1)
"""Width, T and batch."""


def pairs() -> Iterator[tuple[str, Any, Tensor, Any, Any]]:
    """A name, `f`, `s0`, inputs, and other inputs of the same kind."""
    other = torch.Generator().manual_seed(99)
    for width in 8, 32:
        f, s0, u = problems.default_gru(width, 1_000)
        yield f"GRU, fresh, D={width}", f, s0, u, f.inputs(torch.randn(1_000, width, generator=other))  # pyright: ignore[reportFunctionMemberAccess]
    network = load_sleep(2_400)
    f = GRURecurrence.from_module(network.gru)
    first, second = network.x.split(1_200)
    yield "GRU(8), trained on sleep", f, torch.zeros(8), f.inputs(first), f.inputs(second)


def counts(f: Any, s0: Tensor, u: Any, other: Any, method: li.LDSApproximation) -> list[int]:
    """Iterations from `s0` repeated, from `f(0, u)`, after Jacobi sweeps, and from another's states."""
    remembered = li.solve(f, s0, other, method).states

    def taken(guess: Any, chosen: li.LDSApproximation = method) -> int:
        return int(li.solve(f, s0, u, chosen, guess=guess).iterations)

    assert isinstance(method, li.TransitionApproximation)
    swept = taken(li.repeat_initial, li.Then(li.Jacobi(), method, SWEEPS))
    return [taken(li.repeat_initial), taken(li.step_from_zero), swept, taken(remembered)]


class Pupil:
    """A network in training, and what its steps took."""

    def __init__(self, features: int, width: int, *, warm_start: bool) -> None:
        torch.manual_seed(0)
        self.layer = li.nn.GRU(features, width, method=li.Auto(warm_start=warm_start))
        self.head = nn.Linear(width, 1)
        self.optimizer = torch.optim.Adam([*self.layer.parameters(), *self.head.parameters()], lr=3e-3)
        self.iterations: list[int] = []
        self.seconds: list[float] = []

    def step(self, x: Tensor, target: Tensor) -> float:
        """One of Adam's; returns the loss."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        loss = functional.mse_loss(self.head(self.layer(x)[0]), target)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - begin)
        if self.layer.last_solution and self.layer.last_solution[0].converged:  # by iterations, not torch's kernel
            self.iterations.append(int(self.layer.last_solution[0].iterations.max()))
        return float(loss.detach())


def train(width: int, length: int, batch: int) -> dict[str, Any]:
    """Both, in turns."""
    samples = load_glucose(length, batch).train[:batch]
    x, target = (torch.stack(columns, 1) for columns in zip(*samples, strict=True))
    pupils = {warm: Pupil(x.shape[-1], width, warm_start=warm) for warm in (False, True)}
    order, chance, losses = list(pupils), random.Random(0), {}
    for _ in range(STEPS):
        chance.shuffle(order)
        for warm in order:
            losses[warm] = pupils[warm].step(x, target)

    def late(values: list[Any]) -> float | None:
        return statistics.median(values[len(values) // 2 :]) if values else None

    return {
        "network": f"GRU({width}), T={length:,}, batch {batch}",
        "method": pupils[True].layer.last_solution[0].decisions[-1].choice.split("(")[0],
        "iterations": {str(warm): late(pupil.iterations) for warm, pupil in pupils.items()},
        "ms": {str(warm): 1e3 * statistics.median(pupil.seconds[STEPS // 2 :]) for warm, pupil in pupils.items()},
        "losses": {str(warm): loss for warm, loss in losses.items()},
    }


def section(results: dict[str, Any]) -> str:
    """Both tables, from the figures alone."""
    head = ["problem", "method", "`s0` repeated", "`f(0, u)`", f"{SWEEPS} Jacobi sweeps first", "another's states"]
    text = markdown(head, [[name, method, *map(str, numbers)] for name, method, numbers in results["counts"]])
    machine = results["machine"]
    text += (
        f"\nTraining on whole series of glucose, {STEPS} steps of Adam; medians over the later half. "
        f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}.\n\n"
    )
    head = ["network", "method", "iterations from `s0`", "from the last states", "ms a step", "ms a step", "ratio"]
    lines = []
    for row in results["training"]:
        cold, warm = row["ms"]["False"], row["ms"]["True"]
        taken = ["" if row["iterations"][key] is None else f"{row['iterations'][key]:g}" for key in ("False", "True")]
        lines.append([row["network"], row["method"], *taken, f"{cold:.3g}", f"{warm:.3g}", f"{warm / cold:.2f}"])
    return text + markdown(head, lines)


def main() -> None:
    """Print the section, and write it."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": describe(), "counts": [], "training": []}
    for name, f, s0, u, other in pairs():
        for method in li.Newton(), li.QuasiNewton():
            with torch.no_grad():
                results["counts"].append([name, type(method).__name__, counts(f, s0, u, other, method)])
    for width, length, batch in NETWORKS:
        results["training"].append(train(width, length, batch))
        print(results["training"][-1], flush=True)
    (results_folder() / "auto_guesses.json").write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    main()
