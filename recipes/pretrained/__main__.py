"""Two trained recurrent networks, evaluated by every method and by `torch.nn.GRU`: `python -m recipes.pretrained`."""

from __future__ import annotations

import platform
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import lds_iter as li
from recipes.command_line import check_folder, fail, in_one_line
from recipes.pretrained.evaluate import Candidate, Row, measure, reference
from recipes.pretrained.networks import AssetMissing, Network, load_g2p, load_sleep
from recipes.pretrained.report import picture, table, verdict

app = typer.Typer(add_completion=False)


class Which(StrEnum):
    """What `--network` takes."""

    g2p = "g2p"
    sleep = "sleep"
    all = "all"


LENGTHS = {Which.g2p: (200, 1000), Which.sleep: (1200, 10_800)}
DENSE = ("newton", "then", "damped")
DENSE_LIMIT = 300
"""Beyond this length a 256 x 256 Jacobian at every step takes minutes, so these methods get a window."""
DENSE_WINDOW = 16
PICTURED = ("jacobi", "quasi", "newton")


def methods(seed: int) -> dict[str, li.LDSApproximation]:
    """What `--methods` takes; the seed is that of the Hutchinson probes."""
    return {
        "newton": li.Newton(),
        "then": li.Then(li.Jacobi(), li.Newton(), 16),
        "damped": li.Damped(li.Newton(), 0.05),
        "block": li.BlockNewton(4),
        "quasi": li.QuasiNewton(),
        "clipped": li.Clipped(li.QuasiNewton(li.Hutchinson(seed=seed))),
        "picard": li.Picard(),
        "jacobi": li.Jacobi(),
    }


TITLES = {
    "newton": "Newton",
    "then": "Then(Jacobi, Newton, 16)",
    "damped": "Damped(Newton, 0.05)",
    "block": "BlockNewton(4)",
    "quasi": "QuasiNewton",
    "clipped": "Clipped(QuasiNewton(Hutchinson))",
    "picard": "Picard",
    "jacobi": "Jacobi",
}


def candidate(key: str, method: li.LDSApproximation, network: Network) -> tuple[str, Candidate]:
    """The method with a window where a dense Jacobian is too much for all times at once, and its name in the table."""
    if key not in DENSE or network.gru.hidden_size <= 64 or len(network.x) <= DENSE_LIMIT:
        return TITLES[key], Candidate(method)
    name = TITLES[key]
    if key == "then":  # sixteen sweeps would finish the window before Newton had a turn
        name, method = "Then(Jacobi, Newton, 4)", li.Then(li.Jacobi(), li.Newton(), 4)
    return f"{name}, window {DENSE_WINDOW}", Candidate(method, DENSE_WINDOW)


@app.command()
@in_one_line
def main(
    network: Annotated[Which, typer.Option(help="Which network to evaluate.")] = Which.all,
    length: Annotated[
        int | None, typer.Option(min=2, help="Time steps; two lengths per network when left out.")
    ] = None,
    methods_: Annotated[str, typer.Option("--methods", help=f"Comma-separated, of: {', '.join(TITLES)}.")] = ",".join(
        TITLES
    ),
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("out"),
    threads: Annotated[
        int, typer.Option(min=1, help="Threads for torch; more than one pays only on an idle machine.")
    ] = 1,
    max_iters: Annotated[
        int | None,
        typer.Option(min=1, help="Limit per solve; half of T but at most 500 (g2p), 60 (sleep) if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random signs of Hutchinson's estimate.")] = 0,
) -> None:
    """Evaluate trained GRUs on real input, in parallel over time by every method, against torch.nn.GRU."""
    torch.set_num_threads(threads)
    chosen = [key.strip() for key in methods_.split(",") if key.strip()]
    unknown = [key for key in chosen if key not in TITLES]
    if unknown or not chosen:
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown)}. Choose of {', '.join(TITLES)}.", param_hint="--methods"
        )
    check_folder(out)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(f"torch {torch.__version__}, {threads} thread(s), {platform.machine()}; residual tolerance 1e-5")
    cases: list[tuple[Network, list[Row]]] = []
    verdicts: list[str] = []
    for which in LENGTHS if network is Which.all else (network,):
        for steps in (length,) if length else LENGTHS[which]:
            case, line = _case(which, steps, chosen, max_iters, seed, console)
            cases.append(case)
            verdicts.append(line)
    for line in verdicts:
        console.print(line, soft_wrap=True)
    path = out / "pretrained.png"
    picture(_panels(cases), path)
    print(path)


def _case(
    which: Which, steps: int, chosen: list[str], max_iters: int | None, seed: int, console: Console
) -> tuple[tuple[Network, list[Row]], str]:
    """Load, measure, print one table; returns what the picture needs, and the verdict."""
    try:
        loaded = load_g2p(steps) if which is Which.g2p else load_sleep(steps)
    except (AssetMissing, ValueError) as error:
        fail(error)
    limit = max_iters or max(1, min(steps // 2, 500 if which is Which.g2p else 60))
    expected, sequential = reference(loaded)
    rows: list[Row] = []
    available = methods(seed)
    for key in chosen:
        name, way = candidate(key, available[key], loaded)
        with console.status(f"{which}, T = {steps}: {name}"):
            rows.append(measure(loaded, key, name, way, limit, expected))
    console.print(table(loaded, rows, sequential, limit))
    console.print()
    return (loaded, rows), verdict(loaded, rows, sequential)


def _panels(cases: list[tuple[Network, list[Row]]]) -> list[tuple[Network, list[Row]]]:
    """The first length of each network, and of its rows the three most telling ones, or the first three there are."""
    panels: dict[str, tuple[Network, list[Row]]] = {}
    for network, rows in cases:
        telling = [row for key in PICTURED for row in rows if row.key == key] or rows[:3]
        panels.setdefault(network.title, (network, telling))
    return list(panels.values())


if __name__ == "__main__":
    app()
