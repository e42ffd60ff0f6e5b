"""Very deep, narrow networks by Newton's method over depth: `python -m bench.depth [--rounds N]`.

The networks of DeepPCR (Danieli et al., NeurIPS 2023): MLPs and residual networks, width 16 to 64, depth up to 1,024,
forward and backward, against the same layers one after the other; and a residual network of 1,024 layers in training.
Iteration counts and errors are exact whenever this is run; times (`--rounds`) want an idle machine. Writes
`bench/results/depth.json` and, from that alone, `docs/background/depth.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

import lds_iter as li
from bench.common.machine import describe
from bench.common.pages import keep
from bench.depth.measure import DEPTHS, KINDS, WIDTHS, _parallel, _sequential, row, train
from bench.depth.page import page

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "bench" / "results" / "depth.json", ROOT / "docs" / "background" / "depth.md"


def main(
    rounds: Annotated[int, typer.Option(min=0, help="Timed runs of each row; 0 counts iterations only.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the residual network.")] = 60,
) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    rows = []
    for kind in KINDS:
        for width in WIDTHS:
            for depth in DEPTHS:
                rows.append(row(kind, width, depth, rounds))
                print(json.dumps(rows[-1]), flush=True)
    training = {"parallel": train(_parallel, steps), "sequential": train(_sequential, steps)}
    results = {**describe(), "lds_iter": li.__version__, "rounds": rounds, "rows": rows, "training": training}
    keep(results, JSON, PAGE, page(results))
    print(PAGE)


if __name__ == "__main__":
    typer.run(main)
