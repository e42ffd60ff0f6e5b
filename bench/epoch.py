"""One epoch of the recipe `gru`, by `lds_iter` and by `torch.nn.GRU`: `python -m bench.epoch`.

Eight training steps and a validation at the recipe's default size (five layers, D = 32, T = 17,984, batch 1), with
Lightning, its logs and its checkpoints, as who runs the recipe has it. Each epoch runs in a process of its own, so that
its peak memory is its own; the peer first, then ours, in turns; medians. Before a ratio is reported the losses of all
steps and of the validation must agree. Writes `bench/results/<device>/epoch.json` and a section of
`docs/recipes/gru.md`.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from bench.machine import describe, results_folder
from bench.pages import between, keep
from recipes.gru.glucose import load_glucose
from recipes.gru.report import read_run
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.training import Limits, Setup, network, train

GATE = 1e-4
"""Largest relative difference of a loss at which a ratio is reported: residuals of 1e-5, eight steps of Adam apart."""

BAR = 12.0
"""How many times faster than `torch.nn.GRU` an epoch must be."""

PAGE = Path("docs/recipes/gru.md")
COMMAND = "python -m bench.epoch"

CHILD = "import json; from bench.epoch import Setup, measure; print(json.dumps(measure({name!r}, Setup(**{setup!r}))))"


class EpochClock(Callback):
    """From the beginning of the epoch to its end, the validation included."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self._started


def peak_mib() -> float:
    """The peak of this process in MiB; not `ru_maxrss`, which a child inherits from its parent."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measure(name: str, setup: Setup) -> dict[str, Any]:
    """One epoch in this process, after a short forward and backward pass to warm up."""
    series = load_glucose(setup.length, setup.crops)
    model = network(series, SOLVERS[name], setup, Options())
    x, target = (tensor[None, :1000] for tensor in series.train[0])
    series.task.loss(model(x), target).backward()
    model.zero_grad()
    before, clock = peak_mib(), EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        train(model, series, setup, Limits(1, device="cpu"), folder=Path(folder), callbacks=[clock])
        run = read_run(name, Path(folder))
    steps = [run.steps[number] for number in sorted(run.steps)]
    return {
        "seconds": clock.seconds,
        "seconds_in_steps": run.seconds,
        "losses": [*(step.loss for step in steps), *(loss for loss, _ in run.held_out.values())],
        "iterations": [max(counts) for counts in zip(*(step.iterations for step in steps), strict=True)],
        "fell_back": sum(step.fell_back for step in steps),
        "before_mib": before,
        "peak_mib": peak_mib(),
    }


def compare(ours: str, setup: Setup, epochs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The medians, and the greatest relative difference of any loss in any round.

    Raises:
        AssertionError: when the losses differ by more than `GATE`, or a layer fell back to torch's kernel.
    """
    pairs = [
        (a, b)
        for mine, theirs in zip(epochs[ours], epochs["torch"], strict=True)
        for a, b in zip(mine["losses"], theirs["losses"], strict=True)
    ]
    error = max(abs(a - b) / abs(b) for a, b in pairs)
    assert error < GATE, f"the losses differ by {error:.1e}, which is not below {GATE:g}"
    assert not any(epoch["fell_back"] for epoch in epochs[ours])
    medians = {
        name: {
            key: statistics.median(epoch[key] for epoch in rounds)
            for key in ("seconds", "seconds_in_steps", "before_mib", "peak_mib")
        }
        for name, rounds in epochs.items()
    }
    return {
        "lds_iter": describe(),
        "setup": asdict(setup),
        "solver": ours,
        "rounds": len(epochs[ours]),
        "steps": len(epochs[ours][0]["losses"]) - 1,
        "error": error,
        "gate": GATE,
        "bar": BAR,
        "iterations": epochs[ours][0]["iterations"],
        "ours": medians[ours],
        "peer": medians["torch"],
        "ratio": medians["torch"]["seconds"] / medians[ours]["seconds"],
    }


def section(results: dict[str, Any]) -> str:
    """The table of the recipe's page."""
    setup, machine = results["setup"], results["lds_iter"]
    rows = [("torch.nn.GRU", results["peer"], ""), (results["solver"], results["ours"], results["iterations"])]
    lines = [
        f"Hardware: {machine['cpu']}, {machine['threads']} threads, no GPU; torch {machine['torch']}, Python "
        f"{machine['python']}. {setup['layers']} layers, D = {setup['width']}, T = {setup['length']:,}, batch "
        f"{setup['batch']}, float32: {results['steps']} steps and a validation. Each epoch in a process of its own, in "
        f"turns; medians of {results['rounds']}. The losses of all steps and of the validation agree to a relative "
        f"difference of {results['error']:.0e} (gate: {results['gate']:g}).",
        "",
        "| Layers by | epoch (s) | in training steps (s) | most iterations, by layer | peak memory (MiB) | before |",
        "|---|---:|---:|---|---:|---:|",
    ]
    lines += [
        f"| `{name}` | {row['seconds']:.1f} | {row['seconds_in_steps']:.1f} | {' '.join(map(str, counts))} "
        f"| {row['peak_mib']:.0f} | {row['before_mib']:.0f} |"
        for name, row, counts in rows
    ]
    return "\n".join([*lines, "", f"An epoch is **{results['ratio']:.1f}** times faster."])


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
