"""The field's recipes in counts: `python -m bench.field [--part optimizer]`.

Counts do not depend on hardware; seconds do, and are those of one run. Prints a row as it comes, writes
`bench/results/field.json` and the tables of `docs/background/field.md`. A run of one part keeps the others' rows.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.field.measure import PARTS, measure
from bench.field.page import cells, section

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "bench" / "results" / "field.json", ROOT / "docs" / "background" / "field.md"


def main(part: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}, all.")] = "all") -> None:
    """Measure, print, and write the figures and the page."""
    if part not in (*PARTS, "all"):
        raise typer.BadParameter(f"--part must be one of {', '.join(PARTS)}, all, got {part}.")
    torch.set_num_threads(1)
    chosen = list(PARTS) if part == "all" else [part]
    before: list[dict[str, Any]] = json.loads(JSON.read_text())["rows"] if JSON.exists() else []
    rows = [row for row in before if row["part"] not in chosen]
    for name in chosen:
        for row in measure(name):
            rows.append(asdict(row))
            Console().print(" | ".join(cells(rows[-1])), soft_wrap=True)
    results = {**describe(), "rows": rows}
    text = PAGE.read_text()
    for name in PARTS:
        text = between(text, f"python -m bench.field --part {name}", section(results, name))
    keep(results, JSON, PAGE, text)


if __name__ == "__main__":
    typer.run(main)
