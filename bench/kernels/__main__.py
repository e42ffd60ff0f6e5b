"""The Triton kernels against a copy of the same bytes, the plain path and peers: `python -m bench.kernels`.

On a CUDA device every case passes its correctness gate first (against `reference_scan`, or the closed-form derivatives,
in float64) and is then timed with a cold second-level cache, as captured CUDA graphs, so that what is measured is the
device, and once more as launched from Python. The yardstick is a copy that moves the least bytes that the case must
move: each argument read once, each result written once. Writes `bench/results/<device>/kernels.json` and a section of
`docs/background/kernels.md`. Without a CUDA device it counts the bytes alone and says that the times await one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between
from bench.kernels.bytes_moved import table
from bench.kernels.measure import BAR, CASES, LONG, measure, measure_step
from bench.kernels.page import COMMAND, section
from recipes.files import write

PAGE = Path("docs/background/kernels.md")


def main(
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure on a CUDA device, else count bytes; print, keep, and write the page."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    timed = torch.cuda.is_available()
    if not timed:
        os.environ["TRITON_INTERPRET"] = "1"
        print("Without a CUDA device only bytes are counted; the times await hardware.")
    kept = (Path("bench/results") if timed or out is None else out) / "kernel-bytes.json"
    if timed:
        results: dict[str, Any] = {
            "lds_iter": describe(), "device": torch.cuda.get_device_name(), "bar": BAR, "long": LONG,
            "scans": [measure(case, "cuda") for case in CASES],
            "steps": [measure_step(width, 100_000, "cuda") for width in (8, 16, 32, 64)],
        }  # fmt: skip
        folder = results_folder() if out is None else out
        write(folder / "kernels.json", json.dumps(results, indent=1) + "\n")
    else:
        measured = sorted(Path("bench/results").glob("*/kernels.json"))  # by a machine that had one
        results = json.loads(measured[0].read_text()) if measured else {}
        write(kept, json.dumps(table(), indent=1) + "\n")
    written = section(json.loads(kept.read_text()), results)
    print(written)
    write(PAGE if out is None else out / "kernels.md", between(PAGE.read_text(), COMMAND, written))


if __name__ == "__main__":
    typer.run(main)
