"""Whether samples keep their tolerance, and in how many rounds: `python -m bench.diffusion_tolerance`.

Twelve schedulers, five numbers of steps, and guidance at 1, 3 and 7.5, with the digits of `recipes.diffusion`, four
samples at a time, and the defaults of `ParallelSampler`. Errors are root mean squares against the scheduler's own loop
from the same noise; counts and errors do not depend on the machine, up to rounding. The seeds are new: what the
defaults do under guidance and clipping was decided on seeds 500 to 502.

Writes `bench/results/diffusion_tolerance.json` and, from that alone, a part of `docs/background/diffusion.md`. Runs
that end are also written to `out/diffusion-tolerance-rows.jsonl`, line by line; with `--resume` those found there are
not run again.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import typer

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.diffusion.page import PAGE, TOLERANCE_COMMAND, tolerance_section
from bench.diffusion_tolerance.measure import FIRST_SEED, TOLERANCE, Run, measure
from recipes import files

JSON = Path(__file__).parents[1] / "results" / "diffusion_tolerance.json"
LINES = Path(__file__).parents[2] / "out" / "diffusion-tolerance-rows.jsonl"


def main(seeds: int = 1, only: str = "", write: bool = True, resume: bool = False) -> None:
    """Measure, print, and write the figures and their part of the page.

    Args:
        seeds: batches of each case.
        only: schedulers whose names contain this.
        write: whether to write; not for a part of the schedulers.
        resume: keep the runs that a former call wrote down, which must have been of the same code.
    """
    warnings.simplefilter("ignore")  # of clipping under guidance, and of what diffusers will remove
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    lines = files.whole_lines(LINES) if resume else []
    known, rows = [Run(**json.loads(line)) for line in lines], []
    files.write(LINES, "".join(f"{line}\n" for line in lines))
    with LINES.open("a") as file:
        for made in measure(seeds, only, known):
            rows.append(asdict(made))
            print(*rows[-1].values(), flush=True)
            if made not in known:
                print(json.dumps(rows[-1]), file=file, flush=True)
    results = {**describe(), "tolerance": TOLERANCE, "seed": FIRST_SEED, "rows": rows}
    if write and not only:
        keep(results, JSON, PAGE, between(PAGE.read_text(), TOLERANCE_COMMAND, tolerance_section(results)))


if __name__ == "__main__":
    typer.run(main)
