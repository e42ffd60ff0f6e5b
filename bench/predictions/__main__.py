"""How good `li.diagnostics.predict_iterations` is: `python -m bench.predictions [--full]`.

Every problem is predicted from its first steps, and then solved in full. Counts do not depend on hardware. Prints a
table, writes `bench/results/predictions.json` and, from that alone, `docs/background/predictions.md`.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import torch
import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import keep
from bench.predictions.measure import cases, measure, more, unseen
from bench.predictions.page import page

ROOT = Path(__file__).parents[2]
JSON = ROOT / "bench" / "results" / "predictions.json"
PAGE = ROOT / "docs" / "background" / "predictions.md"


def main(full: bool = False) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console, rows = Console(), []
    for case in itertools.chain(cases(full), more(), unseen(full)):
        for row in measure(case):
            rows.append(asdict(row))
            console.print(" | ".join(str(value) for value in rows[-1].values()), soft_wrap=True)
    results = {**describe(), "full": full, "rows": rows}
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
