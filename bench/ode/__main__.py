"""Differential equations by all solvers: `python -m bench.ode [--minutes 10] [--most-steps N] [--no-write]`.

Writes `bench/results/cpu-<n>-threads/ode.json` after every case, and the table of `docs/background/ode.md`. A case that
is in the file already is not measured again: a run that was cut off, or whose time was up, goes on where it ended.
`--afresh` begins again. Wants a quiet machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.common.machine import describe, results_folder
from bench.common.pages import between, keep
from bench.ode.cases import cases
from bench.ode.measure import Row, Watch, measure
from bench.ode.page import section

PAGE = Path(__file__).parent.parent.parent / "docs" / "background" / "ode.md"


def main(
    minutes: Annotated[float, typer.Option(help="no case begins after so many")] = 10,
    most_steps: Annotated[int, typer.Option(help="leave longer cases out")] = 1_000_000,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    afresh: Annotated[bool, typer.Option("--afresh", help="measure again what is measured already")] = False,
    write: Annotated[bool, typer.Option(help="figures and page")] = True,
) -> None:
    """Measure, print, and write the figures and the page."""
    torch.set_num_threads(threads)
    file = results_folder() / "ode.json"
    results = _begun(file, afresh=afresh or not write)
    done, watch = {row["case"]: row for row in results["rows"]}, Watch(minutes)
    for found in measure(cases(most_steps), done, watch):
        for one in found:
            Console().print(" | ".join(str(value) for value in asdict(one).values()), soft_wrap=True)
            results["rows" if isinstance(one, Row) else "skipped"].append(asdict(one))
        if write:
            keep(results, file, PAGE, between(PAGE.read_text(), "python -m bench.ode", section(results)))


def _begun(file: Path, *, afresh: bool) -> dict[str, Any]:
    """The figures of a run that did not get to its end, on this machine; else none."""
    here = describe()
    if file.exists() and not afresh:
        before = json.loads(file.read_text())
        if all(before.get(name) == value for name, value in here.items()):
            late = [one for one in before["skipped"] if one["solver"] != "all"]
            return {**before, "skipped": late}
    return {**here, "rows": [], "skipped": []}


if __name__ == "__main__":
    typer.run(main)
