"""Predictability decides what can be parallelized, measured: `python -m recipes.predictability`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from recipes.predictability import measure, pictures
from recipes.predictability.measure import Langevin, Point

app = typer.Typer(add_completion=False)

PAPER = {
    "ABC": "3",
    "Chua": "14",
    "Kawczynski-Strizhak": "2",
    "Lorenz": "3",
    "Nose-Hoover": "3",
    "Rossler": "6-7",
    "SprottB": "2",
    "Thomas": "6-7",
    "Vallis El Nino": "3",
    "Chua, the system": "697",
}
"""Iterations that the paper's table and its program report."""

DT = 0.01


class Part(StrEnum):
    """What `--part` takes."""

    rnn = "rnn"
    flows = "flows"
    langevin = "langevin"
    all = "all"


def _solves(table: Table, name: str, points: Iterable[Point]) -> list[Point]:
    """Measure, a row for each."""
    found = []
    for point in points:
        found.append(point)
        off = "" if point.off is None else f"{point.off:.1e}"
        count = f"{point.iterations:,}" if point.solved else f"[red]{point.iterations:,}, not solved[/red]"
        table.add_row(f"{name}{point.label}", f"{point.exponent:+.4f} +- {point.error:.1g}", count, off)
    return found


def _table(title: str, *more: str, unit: str = "step") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("problem", no_wrap=True)
    for heading in (f"exponent, nats/{unit}", "iterations", "error", *more):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _networks(width: int, length: int, gains: int, seeds: int, out: Path, console: Console) -> Path:
    table = _table(f"Mean-field RNN, D = {width}, T = {length:,}, {seeds} seed(s)")
    sweep = torch.linspace(0.5, 2.0, gains, dtype=torch.float64).tolist()
    points = _solves(table, "g = ", measure.networks(sweep, range(seeds), width, length))
    console.print(table)
    return pictures.network_picture(points, out / "predictability_rnn.png")


def _flows(length: int, chua_length: int, width: int, ring_length: int, out: Path, console: Console) -> Path:
    title = f"Observers of chaotic flows, T = {length:,}, dt = {DT}"
    table = _table(title, "of the flow", "paper", unit="time")
    points = []
    for point, chaos in measure.observers(length, DT):
        points.append(point)
        paper = PAPER[point.label] if length == 30_000 else ""
        exponents = f"{point.exponent / DT:+.3f} +- {point.error / DT:.1g}"
        table.add_row(point.label, exponents, f"{point.iterations}", f"{point.off:.1e}", f"{chaos / DT:+.3f}", paper)
    systems = []
    if chua_length:
        systems = [measure.chua(chua_length, DT)]
        paper = PAPER[systems[0].label] if chua_length == 30_000 else ""
        exponent = f"{systems[0].exponent / DT:+.2f} +- {systems[0].error / DT:.1g}"
        label = f"{systems[0].label}, {chua_length:,}"
        table.add_row(label, exponent, f"{systems[0].iterations:,}", f"{systems[0].off:.1e}", "", paper)
    console.print(table)
    table = _table(f"Lorenz-96, D = {width}, T = {ring_length:,}, dt = {DT}")
    forcings = [0.5, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0]
    rings = _solves(table, "F = ", measure.rings(forcings, width, ring_length))
    console.print(table)
    return pictures.flow_picture(points, systems, rings, out / "predictability_flows.png")


def _langevin(seeds: int, length: int, out: Path, console: Console) -> Path:
    found: Langevin = measure.wells(seeds, length)
    table = Table(title=f"Langevin between two wells, {seeds} noise seeds", title_justify="left")
    for heading in ("T", "iterations: least", "median", "most"):
        table.add_column(heading, justify="right")
    for steps in sorted({max(1, length * part // 4) for part in (1, 2, 3, 4)}):
        counts = found.counts[steps - 1].double()
        table.add_row(f"{steps:,}", f"{counts.min():.0f}", f"{counts.quantile(0.5):g}", f"{counts.max():.0f}")
    console.print(table)
    last = found.exponents[-1]
    console.print(
        f"exponent: median {last.median():+.4f}, {last.min():+.4f} to {last.max():+.4f} nats per step; "
        f"largest error {found.off:.1e}"
    )
    return pictures.langevin_picture(found, out / "predictability_langevin.png")


@app.command()
def main(
    part: Annotated[Part, typer.Option(help="Which experiment to run.")] = Part.all,
    width: Annotated[int, typer.Option(min=2, help="Units of the network; the paper's are 100.")] = 32,
    length: Annotated[int, typer.Option(min=8, help="Time steps of the network; the paper's: 1,000 and more.")] = 512,
    gains: Annotated[int, typer.Option(min=2, help="Gains from 0.5 to 2.")] = 13,
    seeds: Annotated[int, typer.Option(min=1, help="Networks per gain.")] = 2,
    flow_length: Annotated[int, typer.Option(min=8, help="Time steps of the observers.")] = 30_000,
    chua_length: Annotated[
        int, typer.Option(min=0, help="Time steps of Chua's circuit itself; half a minute; 0 leaves it out.")
    ] = 30_000,
    ring_width: Annotated[int, typer.Option(min=4, help="Places on the Lorenz-96 ring.")] = 8,
    ring_length: Annotated[int, typer.Option(min=8, help="Time steps of Lorenz-96.")] = 600,
    wells_length: Annotated[int, typer.Option(min=8, help="Time steps between the two wells.")] = 10_000,
    wells_seeds: Annotated[int, typer.Option(min=1, help="Noise seeds between the two wells.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    threads: Annotated[int, typer.Option(min=1, help="Threads for torch.")] = 1,
) -> None:
    """Iterations of Newton's method against the Lyapunov exponent, on networks, chaotic flows and Langevin dynamics."""
    torch.set_num_threads(threads)
    console = Console(width=None if Console().is_terminal else 120)
    parts: dict[Part, Callable[[], Path]] = {
        Part.rnn: lambda: _networks(width, length, gains, seeds, out, console),
        Part.flows: lambda: _flows(flow_length, chua_length, ring_width, ring_length, out, console),
        Part.langevin: lambda: _langevin(wells_seeds, wells_length, out, console),
    }
    for name, run in parts.items():
        if part in (name, Part.all):
            start = time.perf_counter()
            path = run()
            console.print(f"{name}: {time.perf_counter() - start:.0f} s")
            console.print(str(path), soft_wrap=True)


if __name__ == "__main__":
    app()
