"""Iteration counts of the literature, reproduced: `python -m bench.counts [--full]`.

Counts do not depend on hardware, so they are what libraries can be compared by exactly. The sources stop by rules of
their own, on the movement of the states or on a sum of squares, where `li.solve` stops on the largest residual of the
iterate that it returns. Every row therefore has two counts of the same iteration: ours, and the one that the source's
rule gives (see `Watched`).

Prints a table, writes `bench/results/counts.json` and, from that alone, `docs/background/counts.md`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.common.machine import describe
from bench.common.pages import keep
from bench.counts.measure import cases, measure, near_identity
from bench.counts.page import HEAD, cells, page

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "bench" / "results" / "counts.json", ROOT / "docs" / "background" / "counts.md"


def main(full: bool = False) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console, rows = Console(), []
    for case in cases(full):
        for row in measure(case):
            rows.append(asdict(row))
            console.print(" | ".join(cells(rows[-1])[:7]), soft_wrap=True)
    remark = list(near_identity())
    results = {
        **describe(),
        "full": full,
        "rows": rows,
        "near_identity": [asdict(entry) for entry in remark],
    }
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
