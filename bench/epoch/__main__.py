"""One epoch of the recipe `gru`, by `lds_iter` and by `torch.nn.GRU`: `python -m bench.epoch`.

Eight training steps and a validation at the recipe's default size (five layers, D = 32, T = 17,984, batch 1), with
Lightning, its logs and its checkpoints, as who runs the recipe has it. Each epoch runs in a process of its own, so that
its peak memory is its own; the peer first, then ours, in turns; medians. Before a ratio is reported the losses of all
steps and of the validation must agree. Writes `bench/results/<device>/epoch.json` and a section of
`docs/recipes/gru.md`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.common.machine import results_folder
from bench.common.pages import between, keep
from bench.epoch.measure import BAR, compare
from bench.epoch.page import COMMAND, section
from recipes.gru.training import Setup

PAGE = Path("docs/recipes/gru.md")

CHILD = """
import json
from bench.epoch.measure import Setup, measure
print(json.dumps(measure({name!r}, Setup(**{setup!r}))))
"""


def main(
    solver: Annotated[str, typer.Option(help="Ours: a name of the recipe's table.")] = "quasi",
    rounds: Annotated[int, typer.Option(min=1, help="Epochs of each.")] = 3,
    length: Annotated[int, typer.Option(help="Time steps.")] = Setup.length,
    width: Annotated[int, typer.Option(help="Of every layer.")] = Setup.width,
    layers: Annotated[int, typer.Option(help="How many.")] = Setup.layers,
    write: Annotated[bool, typer.Option(help="Keep the figures and write the page.")] = True,
) -> None:
    """Time an epoch of the recipe by lds_iter and by torch, in turns."""
    setup = Setup(length=length, width=width, layers=layers)
    epochs: dict[str, list[dict[str, Any]]] = {"torch": [], solver: []}
    for number in range(rounds):
        for name, done in epochs.items():
            command = [sys.executable, "-c", CHILD.format(name=name, setup=asdict(setup))]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            done.append(json.loads(child.stdout.splitlines()[-1]))
            print(f"round {number + 1}, {name}: {done[-1]['seconds']:.1f} s", flush=True)
    results = compare(solver, setup, epochs)
    print(section(results))
    if write:
        keep(results, results_folder() / "epoch.json", PAGE, between(PAGE.read_text(), COMMAND, section(results)))
    if setup == Setup() and results["ratio"] < BAR:
        raise SystemExit(f"below the bar of {BAR:g}: {results['ratio']:.1f} times faster")


if __name__ == "__main__":
    typer.run(main)
