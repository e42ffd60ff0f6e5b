"""Iterations at the edge of stability: `python -m bench.edge [--full] [--time]`.

Every problem of `bench.edge.problems` by every method of `bench.edge.methods`. Counts do not depend on hardware; times
per iteration do, are measured in turns with the sequential loop, only with `--time`, and want a quiet machine. Prints a
line for each row as it comes, writes `bench/results/edge.json` and, from that alone, `docs/background/edge.md`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.edge.measure import clock, measure, one_thread
from bench.edge.page import cells, page
from bench.edge.problems import families
from bench.machine import describe

ROOT = Path(__file__).parent.parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "edge.json", ROOT / "docs" / "background" / "edge.md"
QUICK_SEEDS, QUICK_LIMIT = 3, 200


def main(
    full: Annotated[bool, typer.Option(help="all seeds, iterations up to T: hours")] = False,
    timed: Annotated[bool, typer.Option("--time", help="measure times per iteration too")] = False,
    only: Annotated[str, typer.Option(help="families whose name contains this; the others keep their results")] = "",
) -> None:
    """Measure, print, and write the JSON file and the page."""
    one_thread()
    console = Console()
    results: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {"rows": [], "times": []}
    for family in families():
        if only not in family.name:
            continue
        rows = []
        limit = family.limit if full else min(family.limit or QUICK_LIMIT, QUICK_LIMIT)
        for row in measure(family, 20 if full else QUICK_SEEDS, limit):
            rows.append(asdict(row))
            console.print(" | ".join(cells(rows[-1])), soft_wrap=True)
        results["rows"] = [row for row in results["rows"] if row["family"] != family.name] + rows
        if timed:
            times = asdict(clock(family, rounds=5, iterations=10))
            results["times"] = [row for row in results["times"] if row["family"] != family.name] + [times]
        order = [family.name for family in families()]
        results["rows"].sort(key=lambda row: order.index(row["family"]))
        results["times"].sort(key=lambda row: order.index(row["family"]))
        results.update(describe())
        JSON.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(page(results))


if __name__ == "__main__":
    typer.run(main)
