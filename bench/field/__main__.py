"""The field's recipes in counts: `python -m bench.field [--part optimizer]`, in seconds with `--seconds`.

Counts do not depend on hardware and come out alike on a busy machine; seconds do, and want a quiet one. Prints a row as
it comes, and writes the tables of `docs/background/field.md`: counts from `bench/results/field.json`, seconds from
`bench/results/field-times.json`. A run of one part keeps the others' rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.field.cases import PARTS
from bench.field.measure import measure, times
from bench.field.page import cells, section, time_cells, times_section

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "background" / "field.md"
JSON, TIMES = ROOT / "bench" / "results" / "field.json", ROOT / "bench" / "results" / "field-times.json"


def main(
    part: Annotated[str, typer.Option(help=f"One of {', '.join(PARTS)}, all.")] = "all",
    seconds: Annotated[bool, typer.Option("--seconds", help="Take times in place of counts.")] = False,
) -> None:
    """Measure, print, and write the figures and the page."""
    if part not in (*PARTS, "all"):
        raise typer.BadParameter(f"--part must be one of {', '.join(PARTS)}, all, got {part}.")
    torch.set_num_threads(1)
    path, take, show = (TIMES, times, time_cells) if seconds else (JSON, measure, cells)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in PARTS if part == "all" else [part]:
        rows = [row for row in rows if row["part"] != name]
        for row in take(name):
            rows.append(asdict(row))
            Console().print(" | ".join(show(rows[-1])), soft_wrap=True)
    rows.sort(key=lambda row: list(PARTS).index(row["part"]))
    results = {**describe(), "rows": rows}
    keep(results, path, PAGE, written(PAGE.read_text(), results, seconds))


def written(text: str, results: Mapping[str, Any], seconds: bool) -> str:
    """The page with the tables of these figures."""
    if seconds:
        return between(text, "python -m bench.field --seconds", times_section(results))
    for name in PARTS:
        text = between(text, f"python -m bench.field --part {name}", section(results, name))
    return text


if __name__ == "__main__":
    typer.run(main)
