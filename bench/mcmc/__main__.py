"""Markov chains: `python -m bench.mcmc counts`, `python -m bench.mcmc leapfrogs` and `python -m bench.mcmc times`.

The first two count iterations, of chains and of the leapfrog steps of a move, which a busy machine does not change. The
last one times chains beside the loop and its peers, and wants a quiet machine; every row is written when it is known,
and a second call goes on where the first one ended. Each writes its figures to `bench/results/` and its table into
`docs/background/mcmc.md`. Peers come with `pip install '.[peers]'`; one that is missing keeps its row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.mcmc import measure, page
from bench.mcmc import times as timing

ROOT = Path(__file__).parent.parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "background" / "mcmc.md"

app = typer.Typer()


def _shown(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        found.append(row)
        Console().print(str(row), soft_wrap=True)
    return found


def _write(name: str, results: dict[str, Any], table: Callable[[], str]) -> None:
    text = between(PAGE.read_text(), f"python -m bench.mcmc {name}", table())
    keep(results, RESULTS / f"mcmc-{name}.json", PAGE, text)


@app.command()
def counts(
    moves: Annotated[int, typer.Option(help="of every method")] = 1000,
    long: Annotated[int, typer.Option(help="of two methods, too; 0 leaves them out")] = 10_000,
    write: Annotated[bool, typer.Option(help="write figures and page")] = True,
) -> None:
    """Iterations by method."""
    rows = _shown(measure.counts(moves, long))
    if write:
        _write("counts", {"rows": rows}, lambda: page.counted(rows))


@app.command()
def leapfrogs(
    moves: Annotated[int, typer.Option(help="of every method")] = 20,
    write: Annotated[bool, typer.Option(help="write figures and page")] = True,
) -> None:
    """Iterations of the leapfrog steps of a move, by method."""
    rows = _shown(measure.leapfrog_counts(moves))
    if write:
        _write("leapfrogs", {"rows": rows}, lambda: page.leapfrogs(rows))


@app.command()
def times(
    moves: Annotated[int, typer.Option(help="of a chain, at most")] = 10_000,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    seconds: Annotated[float, typer.Option(help="after which no further row is begun")] = 600,
    again: Annotated[bool, typer.Option(help="measure rows that are known, too")] = False,
    write: Annotated[bool, typer.Option(help="write figures and page")] = True,
) -> None:
    """Seconds beside the loop."""
    torch.set_num_threads(threads)
    results, file = {**describe(), "moves": moves, "rows": []}, RESULTS / "mcmc-times.json"
    if file.exists() and write and not again:
        old = json.loads(file.read_text())
        if {**old, "rows": []} == results:
            results = old
    done = {(row["case"], row["chains"], row["contender"]) for row in results["rows"] if row["state"] == "timed"}
    results["rows"] = [row for row in results["rows"] if row["state"] == "timed"]
    end = time.perf_counter() + seconds
    for row in timing.times(moves, done):
        Console().print(str(row), soft_wrap=True)
        results["rows"].append(row)
        done.add((row["case"], row["chains"], row["contender"]))
        if write:
            _write("times", results, lambda: page.timed(results))
        if time.perf_counter() > end:
            break
    Console().print(f"rows left: {timing.left(done)}")


if __name__ == "__main__":
    app()
