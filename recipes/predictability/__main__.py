"""Predictability decides what can be parallelized, measured: `python -m recipes.predictability`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from recipes.command_line import check_choice, check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.predictability import measure, pictures
from recipes.predictability.flows import FLOWS, PUBLISHED
from recipes.predictability.measure import Langevin, Point

app = typer.Typer(add_completion=False)

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


def _networks(
    width: int, length: int, gains: int, seeds: int, device: torch.device, out: Path, console: Console
) -> Path:
    table = _table(f"Mean-field RNN, D = {width}, T = {length:,}, {seeds} seed(s)")
    sweep = torch.linspace(0.5, 2.0, gains, dtype=torch.float64, device="cpu").tolist()
    points = _solves(table, "g = ", measure.networks(sweep, range(seeds), width, length, device))
    console.print(table)
    return pictures.network_picture(points, out / "predictability_rnn.svg")


def _flow_row(
    point: Point, chaos: str, paper_chaos: float | None, exponent: float, iterations: int, *, quote: bool
) -> Iterator[str]:
    """A row of the table of flows; `quote`: with the paper's figures, which are for one length."""
    cells = (
        (point.label, None),
        (f"{point.exponent / DT:+.3f} +- {point.error / DT:.1g}", f"{exponent:+.2f}"),
        (f"{point.iterations:,}", f"{iterations:,}"),
        (f"{point.off:.1e}", None),
        (chaos, None if paper_chaos is None else f"{paper_chaos:+.2f}"),
    )
    for ours, paper in cells:
        yield f"{ours} ({paper})" if quote and paper is not None else ours


def _flows(
    length: int, names: Sequence[str], width: int, ring_length: int, device: torch.device, out: Path, console: Console
) -> Path:
    title = f"Observers of chaotic flows, T = {length:,}, dt = {DT}; what the paper reports in brackets"
    table = _table(title, "of the flow", unit="time")
    points, quote = [], length == 30_000
    for point, chaos in measure.observers(length, DT, device):
        points.append(point)
        paper = PUBLISHED[point.label]
        row = (f"{chaos / DT:+.3f}", paper.flow, paper.observer, paper.observer_iterations)
        table.add_row(*_flow_row(point, *row, quote=quote))
    systems = list(measure.systems(names, length, DT, device))
    for name, point in zip(names, systems, strict=True):
        paper = PUBLISHED[name]
        table.add_row(*_flow_row(point, "", None, paper.flow, paper.flow_iterations, quote=quote))
    console.print(table)
    table = _table(f"Lorenz-96, D = {width}, T = {ring_length:,}, dt = {DT}")
    forcings = [0.5, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0]
    rings = _solves(table, "F = ", measure.rings(forcings, width, ring_length, device))
    console.print(table)
    return pictures.flow_picture(points, systems, rings, out / "predictability_flows.svg")


def _langevin(seeds: int, length: int, device: torch.device, out: Path, console: Console) -> Path:
    found: Langevin = measure.wells(seeds, length, device)
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
    return pictures.langevin_picture(found, out / "predictability_langevin.svg")


@app.command()
@in_one_line
def main(
    part: Annotated[Part, typer.Option(help="Which experiment to run.")] = Part.all,
    width: Annotated[int, typer.Option(min=2, help="Units of the network; the paper's are 100.")] = 32,
    length: Annotated[int, typer.Option(min=8, help="Time steps of the network; the paper's: 1,000 and more.")] = 512,
    gains: Annotated[int, typer.Option(min=2, help="Gains from 0.5 to 2.")] = 13,
    seeds: Annotated[int, typer.Option(min=1, help="Networks per gain.")] = 2,
    flow_length: Annotated[int, typer.Option(min=8, help="Time steps of the observers.")] = 30_000,
    systems: Annotated[
        list[str],
        typer.Option("--system", help="A flow to solve itself, without an observer; repeatable; seconds to an hour."),
    ] = ["Chua"],  # noqa: B006
    ring_width: Annotated[int, typer.Option(min=4, help="Places on the Lorenz-96 ring.")] = 8,
    ring_length: Annotated[int, typer.Option(min=8, help="Time steps of Lorenz-96.")] = 600,
    wells_length: Annotated[int, typer.Option(min=8, help="Time steps between the two wells.")] = 10_000,
    wells_seeds: Annotated[int, typer.Option(min=1, help="Noise seeds between the two wells.")] = 20,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    threads: Annotated[int, typer.Option(min=1, help="Threads for torch.")] = 1,
) -> None:
    """Iterations of Newton's method against the Lyapunov exponent, on networks, chaotic flows and Langevin dynamics."""
    for name in systems:
        check_choice("--system", name, FLOWS)
    place = device_of(device, torch.float64)
    check_folder(out)
    torch.set_num_threads(threads)
    console = Console(width=None if Console().is_terminal else 120)
    parts: dict[Part, Callable[[], Path]] = {
        Part.rnn: lambda: _networks(width, length, gains, seeds, place, out, console),
        Part.flows: lambda: _flows(flow_length, systems, ring_width, ring_length, place, out, console),
        Part.langevin: lambda: _langevin(wells_seeds, wells_length, place, out, console),
    }
    for name, run in parts.items():
        if part in (name, Part.all):
            start = time.perf_counter()
            path = run()
            console.print(f"{name}: {time.perf_counter() - start:.0f} s")
            console.print(str(path), soft_wrap=True)


if __name__ == "__main__":
    app()
