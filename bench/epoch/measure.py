"""Trains one epoch in a process of its own, by every solver, and compares losses, seconds and memory."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from bench.common.machine import describe
from recipes.gru.glucose import load_glucose
from recipes.gru.report import read_run
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.training import Limits, Setup, network, train

GATE = 1e-4
"""Largest relative difference of a loss at which a ratio is reported: residuals of 1e-5, eight steps of Adam apart."""

BAR = 12.0
"""How many times faster than `torch.nn.GRU` an epoch must be."""


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
