"""Bring your own cell: `python -m recipes.cells [--cell slstm]`.

Trains six cells, each a short step that states the structure of its Jacobian, on a long real series (a glucose sensor),
all time steps at once by Newton. Prints a table: structure, iterations, difference from the loop over time, and the
time of both. Draws the losses. Where a cell declares its structure, an iteration costs what that structure costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recipes.canvas import label, pyplot, save
from recipes.cells.cells import CELLS
from recipes.cells.training import Trained, train
from recipes.command_line import check_choice, check_folder, fail, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.gru.glucose import load_glucose
from recipes.gru.tasks import Sample, stack
from recipes.pretrained.networks import AssetMissing

EXACT = 1e-4
"""Largest difference from the loop, in units of the largest state, that counts as exact: a solve stops at 1e-5."""

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    cell: Annotated[list[str], typer.Option(help=f"one of {', '.join(CELLS)}; may be repeated")] = list(CELLS),  # noqa: B006
    length: Annotated[int, typer.Option(min=2, help="time steps of a series")] = 4000,
    crops: Annotated[int, typer.Option(min=1, help="series of a batch")] = 4,
    units: Annotated[int, typer.Option(min=1, help="of a cell")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="of training")] = 30,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="folder of the picture")] = Path("out/cells"),
) -> None:
    """Train every cell, compare it with its loop over time, draw the losses."""
    for name in cell:
        check_choice("--cell", name, CELLS)
    place = device_of(device)
    check_folder(out)
    try:
        series = load_glucose(length, crops)
    except (AssetMissing, ValueError) as error:
        fail(error)
    (x, y), held_out = (time_first(some, place) for some in (series.train, series.held_out))
    console, found = Console(), {}
    console.print(f"{series.title}; {length:,} steps, {crops} series to learn from, {units} units, {steps} steps")
    for name in cell:
        found[name] = train(name, x, y, held_out, units=units, steps=steps)
        console.print(f"{name}: loss {found[name].losses[0]:.3f} to {found[name].losses[-1]:.3f}")
    console.print(table(found))
    console.print(f"picture: {picture(found, out)}")


def time_first(samples: list[Sample], device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch of samples on the device, `(T, B, features)` and `(T, B, 1)`."""
    x, y = stack(samples)
    return x.transpose(0, 1).to(device), y.transpose(0, 1).to(device)


def table(found: dict[str, Trained]) -> Table:
    """A row for each cell."""
    rows = Table("cell", "structure", "iterations", "exact?", "held out", "parallel, s", "loop, s")
    for name, one in found.items():
        exact = "yes" if one.error < EXACT else "no"
        rows.add_row(
            name, CELLS[name][1], f"{min(one.iterations)}-{max(one.iterations)}", f"{exact}, {one.error:.0e}",
            f"{one.held_out:.3f}", f"{one.seconds:.3f}", f"{one.loop_seconds:.3f}",
        )  # fmt: skip
    return rows


def picture(found: dict[str, Trained], out: Path) -> Path:
    """The losses of all cells, and the iterations that each step of training took."""
    plt = pyplot()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, one in found.items():
        left.semilogy(one.losses, label=name)
        right.plot(one.iterations[:-1], label=name)
    left.set(xlabel="step of training", ylabel="mean square error")
    right.set(xlabel="step of training", ylabel="Newton iterations", ylim=(0, None))
    label(right)
    return save(figure, out / "cells.svg")


if __name__ == "__main__":
    torch.set_num_threads(1)
    app()
