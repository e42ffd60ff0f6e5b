"""A Hamiltonian neural ODE on two bodies: `python -m recipes.neural_ode [--points 10000]`.

Trains through all steps of the solution at once (or one after the other, `--solver sequential`), prints losses, and
draws the losses and an orbit beside its data. `--compare 10` trains the first ten epochs with torchdiffeq's steps, too,
prints the largest difference of a loss, and draws both curves.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import lds_iter as li
from recipes.canvas import pyplot, save
from recipes.command_line import check_choice, check_folder, in_one_line
from recipes.devices import DeviceName, device_of
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
    epochs: Annotated[int, typer.Option(min=1)] = 160,
    width: Annotated[int, typer.Option(min=1, help="of the hidden layers")] = 32,
    first: Annotated[int, typer.Option(min=0, help="points of the first epoch; 0 for all")] = 1000,
    growth: Annotated[int, typer.Option(min=0, help="more points in every epoch")] = 60,
    rate: Annotated[float, typer.Option(min=0, help="of Adam")] = 0.01,
    solver: Annotated[str, typer.Option(help="parallel or sequential")] = "parallel",
    compare: Annotated[int, typer.Option(min=0, help="epochs to train by torchdiffeq, too")] = 0,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="folder of the picture")] = Path("out/neural_ode"),
) -> None:
    """Simulate, train, draw."""
    check_choice("--solver", solver, SOLVERS)
    place = device_of(device, torch.float64)
    check_folder(out)
    times, states = two_bodies(count, points)

    def trained(solver: str, epochs: int) -> tuple[Hamiltonian, list[float]]:
        torch.manual_seed(0)
        func, start = Hamiltonian(width), time.perf_counter()
        losses = train(
            func, times, states, solver=solver, epochs=epochs, batch=batch, first=first or None, growth=growth,
            rate=rate, device=place,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        Console().print(f"{solver}: {len(losses)} steps in {seconds:.1f} s, loss {losses[0]:.3g} to {losses[-1]:.3g}")
        return func, losses

    others: list[float] = []
    if compare > 0:
        others, again = (trained(name, compare)[1] for name in ("sequential", "parallel"))
        worst = max(abs(one / other - 1) for one, other in zip(again, others, strict=True))
        Console().print(f"the losses of both differ by {worst:.1e}, relatively, at most")
    func, losses = trained(solver, epochs)
    _draw(func, times, states, losses, others, out)


def _draw(
    func: Hamiltonian, times: torch.Tensor, states: torch.Tensor, losses: list[float], others: list[float], out: Path
) -> None:
    plt = pyplot()

    with torch.no_grad():
        found = li.ode.integrate(func, states[0], times, throw=False).ys
    Console().print(f"mean square error over all {len(times)} points: {float((found - states).square().mean()):.3g}")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.semilogy(losses, label="all steps at once")
    if others:
        left.semilogy(others, "o", markersize=3, label="torchdiffeq, step by step")
    left.set(xlabel="step", ylabel="mean square error")
    right.plot(*states[:, 0, :2].T, label="data")
    right.plot(*found[:, 0, :2].T, "--", label="neural ODE")
    right.set(xlabel="x", ylabel="y", aspect="equal")
    right.legend()
    if others:
        left.legend(loc="upper right", fontsize=9)
    Console().print(f"picture: {save(figure, out / 'neural_ode.svg')}")


if __name__ == "__main__":
    app()
