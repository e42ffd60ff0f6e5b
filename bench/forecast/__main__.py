"""What solves should take on an H100 and an H200, from counts alone: `python -m bench.forecast`.

Bytes and launches of each fused iteration and iterations of a solve are counted on this CPU; with the rate of a copy,
measured on the devices, they say what a solve should take at least, and from which length on it should be faster than
steps one after the other. Writes `bench/results/forecast.json` and `docs/background/forecast.md`. `python -m bench.gpu`
confirms or refutes it.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

PAGE = Path("docs/background/forecast.md")


def main(
    length: Annotated[int, typer.Option(help="Time steps at which iterations are counted.")] = 10_000,
    out: Annotated[Path | None, typer.Option(help="The folder to write to, not the repository.")] = None,
) -> None:
    """Count, keep, and write the page."""
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    from bench.common.pages import between, keep
    from bench.forecast.counted import counts
    from bench.forecast.page import COMMAND, section

    results = {"length": length, "counts": [asdict(count) for count in counts((8, 32, 64), length)]}
    folder, page = (Path("bench/results"), PAGE) if out is None else (out, out / "forecast.md")
    keep(results, folder / "forecast.json", page, between(PAGE.read_text(), COMMAND, section(results)))
    print(section(results))


if __name__ == "__main__":
    typer.run(main)
