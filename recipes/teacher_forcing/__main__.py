"""A recurrent network learns a chaotic attractor: `python -m recipes.teacher_forcing [--length 10000 --steps 1500]`.

Trains a piecewise-linear network on Lorenz-63 under generalized teacher forcing, all time steps at once, compares the
first losses with those of training step by step, lets the network run freely, and draws its attractor beside the data.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.canvas import label, pyplot, save
from recipes.command_line import check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.teacher_forcing.data import DT, EXPONENT, divergence, lorenz
from recipes.teacher_forcing.network import Forced, ShallowPLRNN
from recipes.teacher_forcing.training import Step, train

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    length: Annotated[int, typer.Option(min=10, help="Time steps of the series, T.")] = 10_000,
    hidden: Annotated[int, typer.Option(min=1, help="Units of the network.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training.")] = 1500,
    compare: Annotated[int, typer.Option(min=1, help="First steps that are also trained step by step.")] = 3,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("out/teacher_forcing"),
) -> None:
    """Train, compare with training step by step, run the network freely, draw."""
    place = device_of(device, torch.float64)
    check_folder(out)
    console, data = Console(), lorenz(length + 1).to(place)
    network, taken, seconds = _train(data, hidden, steps, parallel=True)
    _, looped, loop_seconds = _train(data, hidden, min(compare, steps), parallel=False, planned=steps)
    away = max(abs(float(one.loss / other.loss) - 1) for one, other in zip(taken, looped, strict=False))
    console.print(
        f"T = {length:,}: {seconds / len(taken) * 1e3:.0f} ms a step of training, all time steps at once; "
        f"{loop_seconds / len(looped) * 1e3:.0f} ms one after the other; losses of the first {len(looped)} differ by "
        f"{away:.0e} of themselves at most"
    )
    strengths, counts = [step.alpha for step in taken], [int(step.iterations) for step in taken]
    console.print(
        f"forcing {max(strengths):g} at most, {strengths[-1]:g} at last; iterations "
        f"{max(counts)} at most, {sum(counts) / len(counts):.1f} on average; "
        f"loss {taken[0].loss:.3g} to {taken[-1].loss:.3g}"
    )
    with torch.no_grad():
        free = li.sequential(Forced(network, 0.0), data[0], data[:-1])
    found = li.diagnostics.lyapunov(Forced(network, 0.0), data[0], data[:-1], free, prefix=None, discard=length // 20)
    console.print(
        f"running freely: Lyapunov exponent {float(found.largest) / DT:.2f} +- {float(found.error[0]) / DT:.2f} nats "
        f"per unit of time, the system's is {EXPONENT:.2f}; divergence in state space "
        f"{divergence(free, data[1:]):.2f}, that of another trajectory of the system "
        f"{divergence(lorenz(length, seed=1).to(place), data[1:]):.2f}"
    )
    console.print(f"picture: {_draw(taken, free.cpu(), data.cpu(), out / 'teacher_forcing.svg')}", soft_wrap=True)


def _train(
    data: Tensor, hidden: int, steps: int, *, parallel: bool, planned: int | None = None
) -> tuple[ShallowPLRNN, list[Step], float]:
    """The network, the steps taken and seconds; `planned` is what the fall of the learning rate reckons with."""
    torch.manual_seed(0)
    network = ShallowPLRNN(data.shape[-1], hidden).to(data.device)
    begin = wall_clock(data)
    taken = list(itertools.islice(train(network, data, planned or steps, parallel=parallel), steps))
    return network, taken, wall_clock(data) - begin


def _draw(taken: list[Step], free: Tensor, data: Tensor, path: Path) -> Path:
    plt = pyplot()

    figure = plt.figure(figsize=(12, 3.8), layout="constrained")
    for place, (rows, title) in enumerate([(data, "Lorenz-63"), (free, "the network, running freely")], 1):
        ax = figure.add_subplot(1, 3, place)
        ax.plot(rows[:5000, 0], rows[:5000, 2], linewidth=0.4, rasterized=True)
        ax.set(title=title, xlabel="x", ylabel="z", xlim=(-3, 3), ylim=(-3, 3))
    ax = figure.add_subplot(1, 3, 3)
    ax.semilogy([float(step.loss) for step in taken], label="loss")
    ax.semilogy([max(1, int(step.iterations)) for step in taken], linewidth=0.5, label="iterations")
    ax.set(xlabel="step of the training")
    label(ax)
    return save(figure, path, dpi=110)


if __name__ == "__main__":
    app()
