"""Everything that needs a GPU, in one visit: `python -m bench.gpu --minutes 9`, on a machine with a CUDA device.

Stages in the order of their value (`bench.gpu.stages`), each with its share of the time: correctness of kernels and
layers on the device, the examples of README and guide, GRUs against cuDNN, DEER's table, the sine wave at the edge of
stability, scans beside a copy, a training step of the size of EigenWorms, diffusion, memory. Every row is written to
`gpu.json` the moment it is known. Rows run in a process of their own, so an error, a lost device or a kernel that never
ends costs one row. The same command goes on where the last one stopped: it runs what is missing, then what failed.

Writes `gpu.json`, `gpu.log` and the report `gpu.txt` to `bench/results/<device>` or `--out`. `--page` measures nothing
and writes `docs/background/gpu.md` from what is kept in `bench/results`. `--tiny` tries every row on a CPU.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between
from bench.gpu.page import COMMAND, page, report
from bench.gpu.record import Record
from bench.gpu.stages import STAGES
from bench.gpu.stages.base import Where
from bench.gpu.visit import Clock, Visit
from bench.gpu.worker import Worker
from recipes.files import write

PAGE = Path("docs/background/gpu.md")
WORKERS = 8


def main(
    minutes: Annotated[float, typer.Option(help="How long the visit lasts; the row at hand is let end.")] = 9.0,
    only: Annotated[str, typer.Option(help="Stages whose names contain this.")] = "",
    out: Annotated[Path | None, typer.Option(help="The folder to write to, not the repository's.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny sizes, on a CPU where there is no GPU.")] = False,
    write_page: Annotated[bool, typer.Option("--page", help="Only write the page from what is kept.")] = False,
) -> None:
    """Measure on the CUDA device, write down every row, and report."""
    if write_page:
        write(PAGE, between(PAGE.read_text(), COMMAND, page(kept(Path("bench/results")))))
        return
    if not (torch.cuda.is_available() or tiny):
        print("bench.gpu needs a CUDA device, and torch finds none here. `--tiny` tries every row on this CPU.")
        raise typer.Exit(2)
    stages = [stage for stage in STAGES if only in stage.name]
    if not stages:
        raise typer.BadParameter(f"no stage is called {only}; there are {', '.join(stage.name for stage in STAGES)}")
    folder = out or (Path("out/gpu-tiny") if tiny else results_folder())
    folder.mkdir(parents=True, exist_ok=True)
    where = Where("cuda" if torch.cuda.is_available() else "cpu", tiny)
    record = Record(folder / "gpu.json", describe())
    command = [sys.executable, "-m", "bench.gpu.worker", where.device, "tiny" if tiny else "full"]
    if where.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    clock = Clock(60 * minutes)
    visit = Visit(where, lambda: Worker(command, folder / "gpu.log"), record, clock, _say, WORKERS)
    visit.run(stages)
    text = report(record.machine, record.stages)
    write(folder / "gpu.txt", text)
    print(f"\n{text}\n{folder / 'gpu.json'}")


def _say(line: str) -> None:
    print(line, flush=True)


def kept(folder: Path) -> list[dict[str, Any]]:
    """The visits of all devices."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*/gpu.json"))]


if __name__ == "__main__":
    typer.run(main)
