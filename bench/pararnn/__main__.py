"""`pararnn-torch`, the other parallel solver of recurrent networks in torch, beside ours: `python -m bench.pararnn`.

Same cell, same weights, same inputs, same tolerance. Its cells run in both libraries by their own code
(`bench/pararnn/cells.py`); the cell of `torch.nn.GRU` runs in it as a cell with a dense Jacobian. Its limit of
iterations, three by default, is raised so that it too stops at a residual of `RESIDUAL`. Where the cell can be written
as a `torch.nn.GRU`, that one is timed beside both. Before anything is timed, outputs and gradients must agree with the
Python loop over the cell (or with `torch.nn.GRU`). Contenders run in turns; medians. Writes
`bench/results/<device>/pararnn.json` and a section of `docs/background/pararnn.md`.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between, keep
from bench.pararnn import cells
from bench.pararnn.measure import CASES, ERROR, GRADIENT_ERROR, LIMIT, RESIDUAL, Case, long_slstm, measure
from bench.pararnn.page import COMMAND, section

PAGE = Path("docs/background/pararnn.md")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    length: Annotated[int | None, typer.Option(help="Time steps of every row: for trying it out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure every row, print and keep it, and write the page."""
    pararnn, rows = cells.load(), []
    for case in CASES:
        short = case if length is None else Case(case.cell, case.width, length, case.batch, case.training)
        rows.append(measure(short, pararnn, rounds))
        print(rows[-1], flush=True)
    results = {
        "lds_iter": describe(), "pararnn": metadata.version("pararnn-torch"), "residual": RESIDUAL, "gate": ERROR,
        "gradient_gate": GRADIENT_ERROR, "rounds": rounds, "rows": rows, "limit": LIMIT,
        "long": [long_slstm(pararnn, width, steps) for steps in (1_000, length or 10_000) for width in (8, 32)],
    }  # fmt: skip
    folder = results_folder() if out is None else out
    text = between(PAGE.read_text(), COMMAND, section(results))
    keep(results, folder / "pararnn.json", PAGE if out is None else out / "pararnn.md", text)


if __name__ == "__main__":
    typer.run(main)
