"""Iterations at the edge of stability: `python -m bench.edge [--only NAME] [--method NAME] [--seeds N] [--limit M]`.

Every problem of `bench.edge.problems` by every method of `bench.edge.methods`. Counts do not depend on hardware; times
per iteration do: `--time` measures them and nothing else, in turns with the sequential loop, for the methods that have
a row, and wants a quiet machine. Prints a line for each row as it comes, writes `bench/results/edge.json` and, from
that alone, `docs/background/edge.md`. Rows that are not measured anew keep their results.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import keep
from bench.edge.measure import clock, measure, one_thread
from bench.edge.methods import JACOBI_FIRST, candidates
from bench.edge.page import cells, page
from bench.edge.problems import Family, families

ROOT = Path(__file__).parent.parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "edge.json", ROOT / "docs" / "background" / "edge.md"


def main(
    only: Annotated[str, typer.Option(help="families whose name contains this")] = "",
    method: Annotated[str, typer.Option(help="methods whose name begins with this")] = "",
    seeds: Annotated[int, typer.Option(help="problems of a family at most")] = 20,
    limit: Annotated[int, typer.Option(help="of iterations")] = 500,
    timed: Annotated[bool, typer.Option("--time", help="measure times per iteration, not counts")] = False,
) -> None:
    """Measure, print, and write the JSON file and the page."""
    one_thread()
    results: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {"rows": [], "times": []}
    for family in families():
        if only in family.name and timed:
            _time(family, results)
        elif only in family.name:
            for row in measure(family, seeds, limit, method):
                Console().print(" | ".join(cells(asdict(row))), soft_wrap=True)
                _replace(results, "rows", asdict(row))
                _write(results)


def _time(family: Family, results: dict[str, Any]) -> None:
    """Time one iteration of every method that has a row and a cost of its own."""
    names = [row["method"] for row in results["rows"] if row["family"] == family.name]
    if names := [name for name in names if name != JACOBI_FIRST]:
        times = clock(family, names, rounds=3, iterations=3 if family.wide else 10)
        Console().print(str(times), soft_wrap=True)
        _replace(results, "times", asdict(times))
        _write(results)


def _replace(results: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    """Put an entry in the place of the one of the same family and method, in the order of the catalogue."""
    kept = [old for old in results[key] if (old["family"], old.get("method")) != (entry["family"], entry.get("method"))]
    order = [family.name for family in families()]
    methods = [None, *(candidate.name for candidate in candidates())]
    kept.append(entry)
    results[key] = sorted(kept, key=lambda row: (order.index(row["family"]), methods.index(row.get("method"))))


def _write(results: dict[str, Any]) -> None:
    results.update(describe())
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
