"""Differential equations by all solvers: `python -m bench.ode [--most-steps N]`.

Prints a row as it comes, writes `bench/results/ode.json` and the table of `docs/background/ode.md`. Wants a quiet
machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.ode.measure import measure
from bench.ode.page import section

ROOT = Path(__file__).parent.parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "ode.json", ROOT / "docs" / "background" / "ode.md"


def main(
    most_steps: Annotated[int, typer.Option(help="leave longer cases out, and the page as it is")] = 1_000_000,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
) -> None:
    """Measure, print, and write the figures and the page."""
    torch.set_num_threads(threads)
    results: dict[str, Any] = {**describe(), "rows": []}
    for row in measure(most_steps):
        results["rows"].append(row)
        Console().print(str(row), soft_wrap=True)
    if most_steps >= 1_000_000:
        keep(results, JSON, PAGE, between(PAGE.read_text(), "python -m bench.ode", section(results)))


if __name__ == "__main__":
    typer.run(main)
