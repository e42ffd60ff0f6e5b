"""A Hamiltonian neural ODE on two bodies: `python -m recipes.neural_ode [--points 10000]`.

Trains through all steps of the solution at once (or one after the other, `--solver sequential`), prints losses, and
draws the loss curve and an orbit beside its data.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import lds_iter as li
from recipes.command_line import check_folder, in_one_line
from recipes.neural_ode.data import two_bodies
from recipes.neural_ode.model import Hamiltonian
from recipes.neural_ode.training import SOLVERS, train

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    points: Annotated[int, typer.Option(min=2, help="of each trajectory, on [0, 10]; the paper has 10,000")] = 10_000,
    count: Annotated[int, typer.Option(min=1, help="of trajectories")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="trajectories of a step")] = 4,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    width: Annotated[int, typer.Option(min=1, help="of the hidden layers")] = 32,
    first: Annotated[int, typer.Option(min=0, help="points of the first epoch; 0 for all")] = 100,
    growth: Annotated[int, typer.Option(min=0, help="more points in every epoch")] = 20,
    solver: Annotated[str, typer.Option(help="parallel or sequential")] = "parallel",
    out: Annotated[Path, typer.Option(help="folder of the picture")] = Path("out/neural_ode"),
) -> None:
    """Simulate, train, draw."""
    if solver not in SOLVERS:
        raise typer.BadParameter(f"expected one of {', '.join(SOLVERS)}, got {solver}", param_hint="--solver")
    check_folder(out)
    times, states = two_bodies(count, points)
    torch.manual_seed(0)
    func = Hamiltonian(width)
    start = time.perf_counter()
    losses = train(func, times, states, solver=solver, epochs=epochs, batch=batch, first=first or None, growth=growth)
    Console().print(
        f"{len(losses)} steps in {time.perf_counter() - start:.1f} s, loss {losses[0]:.3g} to {losses[-1]:.3g}"
    )
    _draw(func, times, states, losses, out)


def _draw(func: Hamiltonian, times: torch.Tensor, states: torch.Tensor, losses: list[float], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    with torch.no_grad():
        found = li.ode.integrate(func, states[0], times, throw=False).ys
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    left.semilogy(losses)
    left.set(xlabel="step", ylabel="mean square error")
    right.plot(*states[:, 0, :2].T, label="data")
    right.plot(*found[:, 0, :2].T, "--", label="neural ODE")
    right.set(xlabel="x", ylabel="y", aspect="equal")
    right.legend()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "orbits.png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    Console().print(f"picture: {out / 'orbits.png'}")


if __name__ == "__main__":
    app()
