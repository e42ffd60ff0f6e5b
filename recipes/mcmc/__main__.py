"""Markov chains on real data, all draws at once: `python -m recipes.mcmc [--model cancer]`.

Warms up, draws in parallel, takes the same chain again one move after the other, and prints means, effective sample
sizes and R-hat of both by ArviZ, which must agree. Trace and rank plots go to `out/mcmc`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.command_line import check_choice, check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.mcmc.problems import breast_cancer, hierarchical_schools, logistic_regression
from recipes.mcmc.report import pictures, summary

app = typer.Typer(add_completion=False)

MODELS = ("cancer", "schools")


def target(model: str, features: int, device: torch.device) -> tuple[Callable[[Any], torch.Tensor], Any]:
    """A log density and a position to start from."""
    if model == "schools":
        z = torch.zeros(8, dtype=torch.float64, device=device)
        return hierarchical_schools(device), {"mu": z.sum(), "log_tau": z.sum(), "z": z}
    x, y = breast_cancer()
    kept = torch.cat([x[:, :features], x[:, -1:]], 1).to(device)
    return logistic_regression(kept, y.to(device)), torch.zeros_like(kept[0])


@app.command()
@in_one_line
def main(
    model: Annotated[str, typer.Option(help=f"one of {', '.join(MODELS)}")] = "cancer",
    features: Annotated[int, typer.Option(min=1, max=30, help="of the tumours, besides a constant")] = 5,
    samples: Annotated[int, typer.Option(min=4, help="of each chain")] = 300,
    chains: Annotated[int, typer.Option(min=1)] = 4,
    warmup: Annotated[int, typer.Option(min=1, help="moves, one after the other")] = 500,
    steps: Annotated[int, typer.Option(min=0, help="leapfrog steps of a move of HMC; 0 for MALA")] = 0,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("out/mcmc"),
) -> None:
    """Warm up, draw, replay, compare, draw pictures."""
    check_choice("--model", model, MODELS)
    place = device_of(device, torch.float64)
    check_folder(out)
    logdensity, start = target(model, features, place)
    generator, console = torch.Generator(place).manual_seed(0), Console()  # draws are those of the device
    like = torch.empty(0, device=place)
    begin = wall_clock(like)
    first = li.mcmc.hmc(logdensity, 0.1, None, steps) if steps else li.mcmc.mala(logdensity, 0.01)
    sampler, x = li.mcmc.warm_up(first, start, warmup, chains, generator=generator)
    console.print(f"warm-up: {wall_clock(like) - begin:.1f} s, then {type(sampler).__name__} is frozen")
    begin = wall_clock(like)
    draws = li.mcmc.sample(sampler, x, samples, generator=generator)
    parallel = wall_clock(like) - begin
    begin = wall_clock(like)
    replay = draws.replay()
    console.print(
        f"{samples} draws of {chains} chains: {int(draws.solution.iterations.max())} iterations, {parallel:.1f} s in "
        f"parallel, {wall_clock(like) - begin:.1f} s one after the other; decisions that differ: "
        f"{int(replay.mismatches.sum())}; acceptance {float(draws.acceptance_rate.mean()):.2f}, divergences "
        f"{int(draws.divergences.sum())}"
    )
    _compare(console, draws.posterior(), li.mcmc.named(replay.positions))
    for path in pictures(draws.posterior(), out, list(draws.posterior())[:2]):
        console.print(f"picture: {path}")


def _compare(console: Console, parallel: dict[str, torch.Tensor], sequential: dict[str, torch.Tensor]) -> None:
    table = Table("", "mean", "one by one", "ESS", "one by one", "R-hat", "one by one")
    ours, theirs = summary(parallel), summary(sequential)
    for name in ours:
        for place in range(len(ours[name]["mean"])):
            cells = []
            for label, form in (("mean", ".4f"), ("ess", ".0f"), ("rhat", ".4f")):
                cells += [format(one[name][label][place], form) for one in (ours, theirs)]
            table.add_row(f"{name}[{place}]", *cells)
    console.print(table)


if __name__ == "__main__":
    app()
