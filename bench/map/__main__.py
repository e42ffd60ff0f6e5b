"""Where ours wins and where it loses against `torch.nn.GRU`, over T, D and batch: `python -m bench.map`.

Default initialisation, N(0, 1) inputs, float32, forward and forward + backward. Ours is `li.nn.GRU` as it comes, step
by step in compiled code. Before a cell is timed its outputs must be
within `ERROR` of the peer's, and its gradients within `GRADIENT_ERROR`, relative. Then the contenders run in turns,
medians of a few rounds; whose first run takes `timing.LONG` or longer does not run again. Cells run from the cheapest
to the dearest, by an estimate that prefers small batches, until the time budget is spent; what is left, and what would
not fit the memory, is marked as not run. Writes `bench/results/<device>/map.json`, `docs/pictures/map-*.svg` and a
section of `docs/background/map.md`.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between, keep
from bench.common.timing import LONG
from bench.map.measure import BATCHES, ERROR, GRADIENT_ERROR, LENGTHS, WIDTHS, Cell, survey
from bench.map.page import COMMAND, picture, section

PAGE, PICTURES = Path("docs/background/map.md"), Path("docs/pictures")


def main(
    budget: Annotated[float, typer.Option(help="Seconds for all cells together.")] = 440.0,
    memory: Annotated[float, typer.Option(help="GiB for one cell.")] = 6.0,
    longest: Annotated[int, typer.Option(help="Leave out longer series.")] = LENGTHS[-1],
    widest: Annotated[int, typer.Option(help="Leave out wider networks.")] = WIDTHS[-1],
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository: for trying it out.")] = None,
) -> None:
    """Measure the map, draw it, and write the page."""
    grid = itertools.product(LENGTHS, WIDTHS, BATCHES, (False, True))
    cells = [cell for cell in (Cell(*key) for key in grid) if cell.length <= longest and cell.width <= widest]
    begin = time.perf_counter()
    rows = survey(cells, budget, memory)
    results = {
        "lds_iter": describe(), "gate": ERROR, "gradient_gate": GRADIENT_ERROR, "long": LONG,
        "budget": budget, "memory": memory, "seconds": time.perf_counter() - begin, "cells": rows,
    }  # fmt: skip
    folder = results_folder() if out is None else out
    page = between(PAGE.read_text(), COMMAND, section(results))
    keep(results, folder / "map.json", PAGE if out is None else out / "map.md", page)
    for training, name in (False, "map-forward.svg"), (True, "map-training.svg"):
        picture(results, (PICTURES if out is None else out) / name, training=training)


if __name__ == "__main__":
    typer.run(main)
