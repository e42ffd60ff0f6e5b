"""Markov chains: `python -m bench.mcmc counts` and `python -m bench.mcmc times`.

The first counts iterations, which a busy machine does not change; the second times them beside the chain taken one move
after the other, and wants a quiet machine. Each writes its figures to `bench/results/` and its table into
`docs/background/mcmc.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.machine import describe
from bench.mcmc import measure
from bench.mcmc.page import counted, timed
from bench.pages import between, keep

ROOT = Path(__file__).parent.parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "background" / "mcmc.md"

app = typer.Typer()


def _collected(rows: Any) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        found.append(row)
        Console().print(str(row), soft_wrap=True)
    return found


@app.command()
def counts(
    moves: Annotated[int, typer.Option(help="of every method")] = 1000,
    long: Annotated[int, typer.Option(help="of the default method, too; 0 leaves them out")] = 10_000,
    write: Annotated[bool, typer.Option(help="write figures and page")] = True,
) -> None:
    """Iterations by method."""
    rows = _collected(measure.counts(moves, long))
    if write:
        page = between(PAGE.read_text(), "python -m bench.mcmc counts", counted(rows))
        keep({"rows": rows}, RESULTS / "mcmc-counts.json", PAGE, page)


@app.command()
def times(
    moves: Annotated[int, typer.Option(help="of a chain")] = 10_000,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    write: Annotated[bool, typer.Option(help="write figures and page")] = True,
) -> None:
    """Seconds beside the loop."""
    torch.set_num_threads(threads)
    results = {**describe(), "rows": _collected(measure.times(moves))}
    if write:
        page = between(PAGE.read_text(), "python -m bench.mcmc times", timed(results))
        keep(results, RESULTS / "mcmc-times.json", PAGE, page)


if __name__ == "__main__":
    app()
