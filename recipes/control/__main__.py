"""A cart swings its pole up and holds it there: `python -m recipes.control [--length 300 --hold 100000]`.

Improves all forces of a swing-up by gradients through all steps of a simulator at once, then the gains of a feedback by
gradients through 100,000 steps; checks both by the simulator step by step, and draws the motion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.canvas import pyplot, save
from recipes.command_line import check_folder, in_one_line
from recipes.control.cart_pole import STRONGEST, ClosedLoop, OpenLoop
from recipes.control.optimize import HANGING, Improvement, hold, swing_up
from recipes.devices import DeviceName, device_of

DT = 0.01
"""Seconds of a step of the simulator."""

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    length: Annotated[int, typer.Option(min=2, help="Steps of the swing-up, of 0.01 s.")] = 300,
    times: Annotated[int, typer.Option(min=1, help="Improvements of its forces.")] = 300,
    hold_length: Annotated[int, typer.Option("--hold", min=2, help="Steps to hold the pole upright.")] = 100_000,
    hold_times: Annotated[int, typer.Option(min=1, help="Improvements of the feedback's gains.")] = 50,
    compare: Annotated[int, typer.Option(min=1, help="Improvements that are also made step by step.")] = 2,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("out/control"),
) -> None:
    """Swing up, hold, check step by step, draw."""
    place = device_of(device, torch.float64)
    check_folder(out)
    console = Console()
    swings, loop = (swing_up(times, length, DT, parallel=parallel, device=place) for parallel in (True, False))
    swung = _improved(console, "swing-up", swings, loop, compare)
    holds, loop = (hold(hold_times, hold_length, DT, parallel=parallel, device=place) for parallel in (True, False))
    held = _improved(console, "hold", holds, loop if hold_length <= 10_000 else (), compare)
    states, forces = played(swung[-1].controls, held[-1].controls, 500)
    upright = states[length - 1 :, 1]
    console.print(
        f"step by step: the pole is {math.degrees(float(upright[0].abs())):.1f} degrees from upright after the "
        f"swing-up, {math.degrees(float(upright[-250:].abs().max())):.1f} at most in the last 2.5 s of 5 s under "
        "feedback and pushes"
    )
    console.print(f"picture: {_draw(swung, states, forces, length, out / 'control.svg')}", soft_wrap=True)


def played(w: Tensor, gains: Tensor, rest: int) -> tuple[Tensor, Tensor]:
    """The simulator step by step: the swing-up, and then so many steps of feedback with pushes.

    Args:
        w: of the forces, `(T)`.
        gains: of the feedback, `(4)`.
        rest: steps of feedback.

    Returns:
        The states `(T + rest, 4)`, with the last turn of the pole as 0, and the forces of the cart.
    """
    with torch.no_grad():
        swung = li.sequential(OpenLoop(DT), torch.tensor(HANGING, dtype=torch.float64, device=w.device), w)
        turns = 2 * math.pi * (swung[-1, 1] / (2 * math.pi)).round()
        swung[:, 1] -= turns
        chance = torch.Generator("cpu").manual_seed(1)
        pushes = (2 * torch.randn(rest, generator=chance, dtype=torch.float64, device="cpu")).to(w.device)
        controller = ClosedLoop(gains, DT)
        held = li.sequential(controller, swung[-1], pushes)
        before = torch.cat([swung[-1:], held[:-1]])
    return torch.cat([swung, held]), torch.cat([STRONGEST * torch.tanh(w), controller.force(before)])


def _improved(
    console: Console, name: str, parallel: Iterable[Improvement], loop: Iterable[Improvement], compare: int
) -> list[Improvement]:
    """All improvements in parallel, and the first ones step by step beside them."""
    begin = time.perf_counter()
    found = list(parallel)
    each = (wall_clock(found[-1].states) - begin) / len(found) * 1e3
    console.print(
        f"{name}: {len(found[0].states):,} steps, cost {found[0].cost:.4g} to {found[-1].cost:.4g}; "
        f"{max(int(one.iterations) for one in found)} iterations at most; {each:.0f} ms an improvement in parallel"
    )
    begin, count, away = wall_clock(found[-1].states), 0, 0.0
    for one, other in zip(found, loop, strict=False):
        count, away = count + 1, max(away, abs(float(one.cost / other.cost) - 1))
        if count == compare:
            break
    if count:
        each = (wall_clock(found[-1].states) - begin) / count * 1e3
        console.print(f"{name}: {each:.0f} ms step by step; costs differ by {away:.0e} of themselves at most")
    return found


def _draw(swung: list[Improvement], states: Tensor, forces: Tensor, length: int, path: Path) -> Path:
    """The motion as poles over time, and angle, force and costs."""
    plt = pyplot()

    figure, (top, left, right) = plt.subplots(1, 3, figsize=(13, 3.5), width_ratios=(2, 1.2, 1), layout="constrained")
    states, forces = states.cpu(), forces.cpu()
    shown = range(0, min(len(states), length + 150), 5)
    for t in shown:
        place, angle = states[t, :2].tolist()
        x, colour = place + t * DT * 2, plt.get_cmap("viridis")(t / max(shown))
        top.plot([x, x + math.sin(angle)], [0, math.cos(angle)], color=colour, linewidth=1)
        top.plot([x], [0], "s", color=colour, markersize=3)
    top.set(aspect="equal", yticks=[], xlabel="place, m, moved on by 2 m a second", title="the pole")
    seconds = DT * torch.arange(len(states), device="cpu")
    left.plot(seconds, states[:, 1], label="angle, rad")
    left.plot(seconds, forces / STRONGEST, linewidth=0.7, label="force, of the largest")
    left.axvline(length * DT, color="grey", linewidth=0.7)
    left.set(xlabel="seconds", title="swing-up, then feedback")
    left.legend(fontsize=9)
    right.plot([float(one.cost) for one in swung])
    right.set(xlabel="improvement", title="cost of the swing-up")
    return save(figure, path, dpi=110)


if __name__ == "__main__":
    app()
