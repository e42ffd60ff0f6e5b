"""The adjoint by the diagonal alone, as in released quasi-DEER code, against ours: `python -m bench.gradients`.

A `torch.nn.GRU` with default initialisation, float64, N(0, 1) inputs, a loss of N(0, 1) weights on every state. The
reference is backpropagation through torch's own loop. Both gradients start from the same solution and differ only in
the adjoint: `l_t = diag(J_{t+1}) l_{t+1} + g_t`, one scan, or `Implicit`, which iterates to `J^T`. Errors are relative,
over the gradient of all parameters. Errors and counts depend on no clock. Writes `bench/results/gradients.json` and a
section of `docs/background/gradients.md`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.gradients.measure import GATE, LENGTHS, SEEDS, WIDTHS, Row, measure
from bench.gradients.page import section

JSON = Path("bench/results/gradients.json")
PAGE = Path("docs/background/gradients.md")
COMMAND = "python -m bench.gradients"


def main(
    widths: Annotated[list[int], typer.Option("--width", help="D, may be repeated.")] = list(WIDTHS),  # noqa: B006
    lengths: Annotated[list[int], typer.Option("--length", help="T, may be repeated.")] = list(LENGTHS),  # noqa: B006
    write: Annotated[bool, typer.Option(help="Keep the figures and write the page.")] = True,
) -> None:
    """Measure every network, print the table, keep it."""
    torch.set_num_threads(1)
    rows = []
    for length in lengths:
        for width in widths:
            found = [list(column) for column in zip(*(measure(width, length, seed) for seed in SEEDS), strict=True)]
            rows.append(asdict(Row(width, length, *found)))  # pyright: ignore[reportArgumentType]
            print(f"D={width}, T={length}: {rows[-1]}", flush=True)
    results = {**describe(), "seeds": list(SEEDS), "tolerance": 1e-10, "gate": GATE, "rows": rows}
    print(section(results))
    if write:
        keep(results, JSON, PAGE, between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    typer.run(main)
