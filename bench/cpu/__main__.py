"""What the compiled CPU kernels bring, and how near they come to the memory; run by `python -m bench.cpu`.

Two tables for `docs/background/cpu.md`, and their figures in `bench/results/<device>/cpu.json`:

- scans and whole solves, compiled and by plain torch operations in turns, after their largest difference has passed
  the gate;
- the roofline: the bytes that an iteration or a scan must move, over the bandwidth of `Tensor.copy_` on arrays of the
  same size, is the time that memory alone would take.
"""

from __future__ import annotations

import json
from pathlib import Path

import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between
from bench.cpu.measure import GATE, scans, solves
from bench.cpu.page import section
from bench.speed.measure import RESIDUAL
from recipes import files

PAGE, COMMAND = Path("docs/background/cpu.md"), "python -m bench.cpu"


def main(rounds: int = 9, scale: float = 1.0, write: bool = True) -> None:
    """Measure, print, keep the figures and write the page."""
    results = {**describe(), "rounds": rounds, "residual": RESIDUAL, "gate": GATE}
    results["rows"] = scans(rounds, scale) + solves(rounds, scale)
    print(section(results))
    if write:
        files.write(results_folder() / "cpu.json", json.dumps(results, indent=1) + "\n")
        files.write(PAGE, between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    typer.run(main)
