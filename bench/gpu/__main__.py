"""The figures that need a GPU: `python -m bench.gpu`, on a machine with a CUDA device.

- GRUs over T, D and batch against cuDNN, float32 without TF32.
- DEER's published table: a GRU with D = 1 and batch 2 against a loop over the steps (Lim et al., "Parallelizing
  non-linear sequential models over the sequence length", ICLR 2024, on a V100).
- The sine-generating GRU at the edge of stability against its loop; no published method is faster than that.
- A training step of the size of EigenWorms.

Every row is checked before it is timed (`bench.peers.measure`). Without a CUDA device the command says so and stops;
`--plan` writes which figures await one. Writes `bench/results/<device>/gpu.json` and a section of
`docs/background/gpu.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.common.machine import describe, full_precision, results_folder
from bench.common.pages import between, keep_of_device
from bench.gpu.measure import describe_problem, groups, survey
from bench.gpu.page import COMMAND, plan, section

PAGE = Path("docs/background/gpu.md")


def main(
    longest: Annotated[int, typer.Option(help="Series are cut to so many steps.")] = 1_000_000,
    budget: Annotated[float, typer.Option(help="Seconds after which no further row begins.")] = 900.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    write_plan: Annotated[bool, typer.Option("--plan", help="Only write which figures await a GPU.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure on the CUDA device, keep the figures, and write the page."""
    page = PAGE if out is None else out / "gpu.md"
    if write_plan:
        waiting = [
            {
                "title": group.title,
                "note": group.note,
                "left": [describe_problem(problem) for problem in group.problems],
            }
            for group in groups("cuda", longest)
        ]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(between(PAGE.read_text(), COMMAND, plan(waiting)))
        return
    if not torch.cuda.is_available():
        print("bench.gpu needs a CUDA device, and torch finds none here. `--plan` writes which figures await one.")
        raise typer.Exit(2)
    full_precision()
    found = survey(groups("cuda", longest), budget, rounds)
    results = {"lds_iter": describe(), "rounds": rounds, "groups": found}
    keep_of_device(results, "gpu", PAGE, COMMAND, section, folder=results_folder(), out=out)


if __name__ == "__main__":
    typer.run(main)
