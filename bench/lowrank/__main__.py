"""Newton with `LowRank` transitions beside full matrices and beside the loop: `python -m bench.lowrank`.

T = 4,096 steps of 8 heads with D = 64, for one sequence and for sixteen. Writes `bench/results/<device>/lowrank.json`
and a section of `docs/background/structure.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import keep_of_device
from bench.lowrank.measure import rows, scan_rows
from bench.lowrank.page import section

PAGE = Path("docs/background/structure.md")
COMMAND = "python -m bench.lowrank"


def main(
    rounds: Annotated[int, typer.Option(help="turns of each contender")] = 3,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    write: Annotated[bool, typer.Option(help="keep the figures and write the page")] = True,
    out: Annotated[Path | None, typer.Option(help="write into this folder instead")] = None,
) -> None:
    """Measure, print, keep."""
    torch.set_num_threads(threads)
    results: dict[str, Any] = {"machine": describe(), "rows": [], "scans": []}
    for kept, found in ("rows", rows(rounds)), ("scans", scan_rows(rounds)):
        for row in found:
            results[kept].append(row)
            print(row, flush=True)
    print(section(results))
    if write:
        keep_of_device(results, "lowrank", PAGE, COMMAND, section, folder=results_folder(), out=out)


if __name__ == "__main__":
    typer.run(main)
