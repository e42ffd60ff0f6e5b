"""Every comparison on the device at hand, one after the other: `python -m bench [--quick] [--only map]`, `make bench`.

Each runs in a process of its own, so that one that fails, or leaves memory behind, does not touch the others. At the
end a summary says what ran, how long, and what failed; the exit code is 1 if anything did. `--quick` runs every
comparison that has a small form, and writes to `out/bench-quick` only: to see that all works, not to measure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.common.machine import device_at_hand

QUICK = Path("out/bench-quick")


@dataclass(frozen=True)
class Comparison:
    """One command of the bench.

    Attributes:
        module: what is run, `python -m module`.
        full: its arguments.
        quick: its arguments for trying it out, which write nothing into the repository; None where it has no such form.
        devices: where it makes sense.
    """

    module: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")


CPU, CUDA = ("cpu",), ("cuda",)

COMPARISONS = (
    Comparison("bench.counts", ("--full",), devices=CPU),
    Comparison("bench.predictions", ("--full",), devices=CPU),
    Comparison("bench.edge", devices=CPU),
    Comparison("bench.edge", ("--time",), devices=CPU),
    Comparison("bench.trained", devices=CPU),
    Comparison("bench.kalman", quick=("--counts",), devices=CPU),
    Comparison("bench.mcmc", ("counts",), ("counts", "--moves", "50", "--long", "0", "--no-write"), devices=CPU),
    Comparison("bench.mcmc", ("times",), ("times", "--moves", "50", "--no-write"), devices=CPU),
    Comparison("bench.ode", ("--afresh",), ("--most-steps", "100", "--no-write"), devices=CPU),
    Comparison("bench.depth", devices=CPU),
    Comparison("bench.generation", devices=CPU),
    Comparison("bench.diffusion", devices=CPU),
    Comparison("bench.diffusion_tolerance", quick=("--only", "LMS", "--no-write"), devices=CPU),
    Comparison("bench.mesh", quick=("--rounds", "1", "--most", "1", "--out", str(QUICK)), devices=CPU),
    Comparison("bench.gradients", quick=("--no-write", "--width", "4", "--length", "100"), devices=CPU),
    Comparison("bench.speed", devices=CPU),
    Comparison("bench.cpu", devices=CPU),
    Comparison("bench.steps", quick=("--quick",), devices=CPU),
    Comparison("bench.auto", devices=CPU),
    Comparison("bench.compile", devices=CPU),
    Comparison("bench.pararnn", quick=("--length", "200", "--rounds", "1", "--out", str(QUICK)), devices=CPU),
    Comparison(
        "bench.map", quick=("--longest", "1000", "--widest", "4", "--budget", "20", "--out", str(QUICK)), devices=CPU
    ),
    Comparison(
        "bench.epoch",
        quick=("--no-write", "--rounds", "1", "--length", "256", "--width", "4", "--layers", "1"),
        devices=CPU,
    ),
    Comparison("bench.peers", quick=("--length", "200", "--rounds", "1", "--out", str(QUICK))),
    Comparison("bench.curves", quick=("--longest", "1000", "--rounds", "1", "--out", str(QUICK))),
    Comparison("bench.roofline", quick=("--length", "2000", "--rounds", "1", "--out", str(QUICK))),
    Comparison("bench.kernels", devices=CUDA),
    Comparison("bench.gpu", quick=("--minutes", "2", "--tiny", "--out", str(QUICK)), devices=CUDA),
    Comparison("bench.registers", devices=CPU),
    Comparison("bench.forecast", devices=CPU),
)


@dataclass(frozen=True)
class Outcome:
    """How a comparison ended: its line in the summary, and whether that is a failure."""

    line: str
    failed: bool


def command(comparison: Comparison, quick: bool) -> list[str]:
    """What is typed for it."""
    arguments = comparison.quick if quick else comparison.full
    return [sys.executable, "-m", comparison.module, *(arguments or ())]


def _call(arguments: Sequence[str]) -> int:
    return subprocess.run(arguments).returncode


def run(
    comparisons: Sequence[Comparison], device: str, *, quick: bool, call: Callable[[Sequence[str]], int] = _call
) -> list[Outcome]:
    """Run them all, whatever happens to one."""
    outcomes = []
    for comparison in comparisons:
        typed = " ".join(["python", *command(comparison, quick)[1:]])
        if device not in comparison.devices:
            outcomes.append(Outcome(f"not here   {typed}: for {' and '.join(comparison.devices)}", False))
        elif quick and comparison.quick is None:
            outcomes.append(Outcome(f"not quick  {typed}", False))
        else:
            print(f"\n{typed}", flush=True)
            start = time.perf_counter()
            code = call(command(comparison, quick))
            seconds = time.perf_counter() - start
            outcomes.append(Outcome(f"{f'FAILED {code}' if code else 'done':10} {typed} ({seconds:.0f} s)", code != 0))
    return outcomes


def main(
    only: Annotated[str, typer.Option(help="Comparisons whose module's name contains this.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that everything runs.")] = False,
) -> None:
    """Run the comparisons and say how each ended."""
    chosen = [comparison for comparison in COMPARISONS if only in comparison.module]
    if not chosen:
        names = ", ".join(dict.fromkeys(comparison.module for comparison in COMPARISONS))
        raise typer.BadParameter(f"no comparison is called {only}; there are {names}")
    outcomes = run(chosen, device_at_hand(), quick=quick)
    print("\n" + "\n".join(outcome.line for outcome in outcomes))
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
