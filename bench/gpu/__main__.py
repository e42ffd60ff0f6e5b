"""Everything that needs a GPU, in one visit: `python -m bench.gpu --minutes 9`, on a machine with a CUDA device.

Stages in the order of their value (`bench.gpu.stages`), each with its share of the time: correctness of kernels and
layers on the device, the examples of README and guide, GRUs against cuDNN, DEER's table, the sine wave at the edge of
stability, scans beside a copy, a training step of the size of EigenWorms, diffusion, memory. The first row of each
comes first of all. Every row is written to `gpu.json` the moment it is known, and the report with it. Rows run in
processes of their own, so an error, a lost device or a kernel that never ends costs one row. The same command goes on
where the last one stopped, however that was: it runs what is missing, then what failed.

Writes `gpu.json`, the report `gpu.txt` and what the processes printed, `gpu-logs`, to `bench/results/<device>` or
`--out`. `--page` measures nothing and writes `docs/background/gpu.md` from what is kept in `bench/results`. `--tiny`
tries every row on a CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import between
from bench.gpu.page import COMMAND, page, report
from bench.gpu.record import Record
from bench.gpu.runner import Worker
from bench.gpu.stages import STAGES
from bench.gpu.stages.base import Stage, Where
from bench.gpu.visit import Clock, Visit
from bench.peers.measure import version
from recipes.files import write

PAGE = Path("docs/background/gpu.md")
LOGS = "gpu-logs"
WORKERS = 8
"""At once, where nothing is timed."""


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
    try:
        record = Record(folder / "gpu.json", facts())
    except ValueError as other:
        print(other)
        raise typer.Exit(2) from None
    _visit(where, record, 60 * minutes, stages)


def _visit(where: Where, record: Record, seconds: float, stages: Sequence[Stage]) -> None:
    """Run the stages, with the report written after each row: nobody may be there to see the end."""
    folder, numbers = record.file.parent, itertools.count(1)
    shutil.rmtree(folder / LOGS, ignore_errors=True)
    (folder / LOGS).mkdir()
    command = [sys.executable, "-m", "bench.gpu.worker", where.device, "tiny" if where.tiny else "full"]
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of the device's memory
    if where.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"

    def say(line: str) -> None:
        print(line, flush=True)
        with contextlib.suppress(OSError):  # a full disk: the lines that are printed remain
            write(folder / "gpu.txt", report(record.machine, record.stages))

    def start() -> Worker:
        return Worker(command, folder / LOGS / f"{next(numbers)}.log")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        workers = min(WORKERS, os.cpu_count() or 1)
        Visit(where, start, record, Clock(seconds), say, workers).run(stages)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    print(f"\n{report(record.machine, record.stages)}\n{record.file}")


def facts() -> dict[str, str | int]:
    """Of the machine, and the versions that decide what the device runs."""
    found = describe() | {"triton": version("triton"), "cpus": os.cpu_count() or 0}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {"cuda": torch.version.cuda or "", "cudnn": torch.backends.cudnn.version() or 0,
                  "capability": f"{device.major}.{device.minor}", "memory_mib": device.total_memory >> 20}  # fmt: skip
    return found


def kept(folder: Path) -> list[dict[str, Any]]:
    """The visits of all devices."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*/gpu.json"))]


if __name__ == "__main__":
    typer.run(main)
