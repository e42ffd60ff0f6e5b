"""`lds_iter.nn` as it comes out of the box, step by step in compiled code, against `torch.nn`: `python -m bench.steps`.

Forward and training (forward and backward), the same weights and input, in turns, on one and on two threads. A row is
timed only where outputs and gradients agree. About ten minutes; `--quick` tries a few short rows and writes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import keep_of_device
from bench.steps.measure import LAYERS, ROUNDS, SHAPES, row
from bench.steps.page import section

PAGE = Path("docs/background/steps.md")


def main(
    quick: Annotated[bool, typer.Option(help="A few short rows, nothing written.")] = False,
    threads: Annotated[list[int] | None, typer.Option(help="Numbers of threads; 1 and 2 when left out.")] = None,
) -> None:
    """Time every layer and shape, print a line for each, and write `steps.json` and the page."""
    shapes = [(100, 8, 1), (50, 16, 4)] if quick else SHAPES
    for count in threads or (1, 2):
        torch.set_num_threads(count)
        rows = []
        for kind, further in LAYERS:
            for length, width, batch in shapes:
                for found in row(kind, further, length, width, batch):
                    rows.append(found)
                    typer.echo(
                        f"{count} thr. {kind:5}{'/'.join(map(str, further.values())):5} T {length:7} D {width:4} "
                        f"B {batch:3} {found['of']:9} ours {found['ours_ms']:9.2f} ms  torch {found['torch_ms']:9.2f} "
                        f"ms  ratio {found['ratio']:7.2f}  error {found['error']:.1e}"
                    )
        if not quick:
            results = {"machine": describe(), "rounds": ROUNDS, "rows": rows}
            keep_of_device(results, "steps", PAGE, "python -m bench.steps", section, folder=results_folder(), out=None)


if __name__ == "__main__":
    typer.run(main)
