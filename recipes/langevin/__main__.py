"""Langevin dynamics where cheap methods shine: `python -m recipes.langevin [--widths 32,256 --steps 1e-5,1e-3]`.

Counts iterations on Gaussian mixtures in many dimensions and between two wells of the plane, beside the loop on the
same noise, and draws trajectories and what they sample beside the density.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recipes.canvas import AMBER, label, pyplot, save
from recipes.command_line import check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.langevin.measure import LIMIT, WIDEST, Count, mixtures, two_well_density, two_wells

app = typer.Typer(add_completion=False)


def numbers(text: str, option: str) -> list[float]:
    """Positive numbers with commas between."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise typer.BadParameter(f"{option} must be positive numbers with commas between, got {text!r}.")
    return found


@app.command()
@in_one_line
def main(
    widths: Annotated[str, typer.Option(help="Dimensions of the mixtures, at most 256.")] = "32,64,128,256",
    steps: Annotated[str, typer.Option(help="Sizes of a step, eps.")] = "1e-6,1e-5,1e-4",
    length: Annotated[int, typer.Option(min=2, help="Steps in the mixtures, T.")] = 1000,
    wells_length: Annotated[int, typer.Option(min=2, help="Steps between the two wells.")] = 10_000,
    chains: Annotated[int, typer.Option(min=1, help="Chains between the two wells.")] = 4,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("out/langevin"),
) -> None:
    """Count iterations of every method, compare with the loop, draw."""
    dimensions = [int(width) for width in numbers(widths, "--widths")]
    if max(dimensions) > max(WIDEST.values()):
        raise typer.BadParameter(f"--widths must be at most {max(WIDEST.values())}, got {max(dimensions)}.")
    sizes = numbers(steps, "--steps")
    place = device_of(device, torch.float64)
    check_folder(out)
    console = Console(width=None if Console().is_terminal else 120)
    found = list(mixtures(dimensions, sizes, length, place))
    console.print(_table(f"Mixtures of two Gaussians, T = {length:,}", found))
    wells, states = two_wells(wells_length, chains, device=place)
    console.print(_table(f"Two wells, {chains} chains, T = {wells_length:,}", wells))
    console.print(f"picture: {_draw(found, states.cpu(), out / 'langevin.svg')}", soft_wrap=True)


def _table(title: str, rows: Iterable[Count]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("D", "eps", "method", "iterations", "error", "estimated", "seconds", "loop, s"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in rows:
        solved = row.iterations is not None
        table.add_row(
            str(row.width), f"{row.step:g}", row.method, str(row.iterations) if solved else f"over {LIMIT}",
            f"{row.error:.0e}" if solved else "-", f"{row.estimate:.0e}" if solved else "-",
            f"{row.seconds:.2f}", f"{row.loop_seconds:.2f}",
        )  # fmt: skip
    return table


def _draw(found: Sequence[Count], states: Tensor, path: Path) -> Path:
    """Counts over the size of a step; trajectories between the wells, and what they sample."""
    plt = pyplot()

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.5), layout="constrained")
    width = min(row.width for row in found)
    for name in WIDEST:
        rows = [row for row in found if row.method == name and row.width == width and row.iterations is not None]
        left.loglog([row.step for row in rows], [row.iterations for row in rows], label=name)
    left.set(xlabel="eps", ylabel="iterations", title=f"mixture, D = {width}")
    label(left)
    middle.plot(states[:, :2, 0], linewidth=0.5, rasterized=True)
    middle.set(xlabel="step", ylabel="first coordinate", title="two wells, two chains")
    grid = torch.linspace(-4.5, 5, 200, dtype=torch.float64, device="cpu")
    right.hist(states[..., 0].flatten().tolist(), bins=60, density=True, alpha=0.5, label="all chains")
    right.plot(grid, two_well_density(grid), label="density", color=AMBER)
    right.set(xlabel="first coordinate", title="what is sampled")
    right.legend()
    return save(figure, path, dpi=110)


if __name__ == "__main__":
    app()
