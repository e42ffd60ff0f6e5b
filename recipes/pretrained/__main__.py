"""Trained networks by `torch.nn.GRU`, by `lds_iter.nn.GRU`, and by every method: `python -m recipes.pretrained`."""

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
from recipes.devices import DeviceName, device_of
from recipes.pretrained.drop_in import gain, gains_table
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
"""Of the first table."""
BY_METHODS = {Which.g2p: 200, Which.sleep: 10_800}
"""Of the tables of methods."""
DENSE = ("newton", "trust", "then", "damped")
DENSE_LIMIT = 300
"""Beyond this length a 256 x 256 Jacobian at every step takes minutes, so these methods get a window."""
DENSE_WINDOW = 16
PICTURED = ("jacobi", "quasi", "newton")


def methods(seed: int) -> dict[str, li.LDSApproximation]:
    """What `--methods` takes; the seed is that of the Hutchinson probes."""
    return {
        "newton": li.Newton(),
        "trust": li.TrustRegion(li.Newton()),
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
    "trust": "TrustRegion(Newton)",
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
        int | None, typer.Option(min=2, help="Time steps; one or two lengths per network when left out.")
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
    device: DeviceName = "cpu",
) -> None:
    """Trained GRUs on real input: torch.nn.GRU, lds_iter.nn.GRU in its place, and every method by itself."""
    torch.set_num_threads(threads)
    chosen = [key.strip() for key in methods_.split(",") if key.strip()]
    unknown = [key for key in chosen if key not in TITLES]
    if unknown or not chosen:
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown)}. Choose of {', '.join(TITLES)}.", param_hint="--methods"
        )
    place = device_of(device)
    check_folder(out)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(
        f"torch {torch.__version__}, {threads} thread(s), {platform.machine()}, {device}; residual tolerance 1e-5"
    )
    wanted = tuple(LENGTHS) if network is Which.all else (network,)
    networks = {
        which: [_load(which, n).to(place) for n in ((length,) if length else LENGTHS[which])] for which in wanted
    }
    with console.status("torch.nn.GRU and lds_iter.nn.GRU in turns"):
        loaded = [one for which in wanted for one in networks[which]]
        gains = [gain(one, training=training) for training in (False, True) for one in loaded]
    console.print(gains_table(gains))
    console.print("\nBehind it: the same networks by iterations over all time steps at once, method by method.\n")
    compared = [one for which in wanted for one in networks[which] if len(one.x) == (length or BY_METHODS[which])]
    cases = [(one, _compare(one, chosen, max_iters, seed, console)) for one in compared]
    for one, (rows, sequential) in cases:
        console.print(verdict(one, rows, sequential), soft_wrap=True)
    path = out / "pretrained.svg"
    picture(_panels([(one, rows) for one, (rows, _) in cases]), path)
    print(path)


def _load(which: Which, steps: int) -> Network:
    """The network with an input of so many steps; a message and code 1 where there is none."""
    try:
        return load_g2p(steps) if which is Which.g2p else load_sleep(steps)
    except (AssetMissing, ValueError) as error:
        fail(error)


def _compare(
    network: Network, chosen: list[str], max_iters: int | None, seed: int, console: Console
) -> tuple[list[Row], float]:
    """Measure and print one table; returns its rows, and the seconds of `torch.nn.GRU`."""
    most = 60 if network.gru.bidirectional else 500
    limit = max_iters or max(1, min(len(network.x) // 2, most))
    expected, sequential = reference(network)
    rows: list[Row] = []
    available = methods(seed)
    for key in chosen:
        name, way = candidate(key, available[key], network)
        with console.status(f"{network.title.split(':')[0]}, T = {len(network.x)}: {name}"):
            rows.append(measure(network, key, name, way, limit, expected))
    console.print(table(network, rows, sequential, limit))
    console.print()
    return rows, sequential


def _panels(cases: list[tuple[Network, list[Row]]]) -> list[tuple[Network, list[Row]]]:
    """The first length of each network, and of its rows the three most telling ones, or the first three there are."""
    panels: dict[str, tuple[Network, list[Row]]] = {}
    for network, rows in cases:
        telling = [row for key in PICTURED for row in rows if row.key == key] or rows[:3]
        panels.setdefault(network.title, (network, telling))
    return list(panels.values())


if __name__ == "__main__":
    app()
