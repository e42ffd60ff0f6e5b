"""`lds_iter.nn` as it comes out of the box, step by step in compiled code, against `torch.nn`: `python -m bench.steps`.

Forward and training (forward and backward), the same weights and input, in turns, on one and on two threads. A row is
timed only where outputs and gradients agree. About ten minutes; `--quick` tries a few short rows and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import lds_iter as li
from bench.layers import ERROR, GRADIENT_ERROR
from bench.machine import describe, results_folder
from bench.timing import alternately, first_run

SHAPES = (  # T, D, batch
    (10_000, 8, 1), (10_000, 32, 1), (10_000, 64, 1), (2_000, 128, 1), (1_000, 256, 1), (10_000, 32, 8),
    (2_000, 64, 32), (200, 256, 32), (100, 8, 1), (100, 64, 8), (100, 512, 1), (100_000, 8, 1), (100_000, 32, 1),
)  # fmt: skip
LAYERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 4}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"}),
)  # fmt: skip
ROUNDS = 7

Run = Callable[[torch.nn.Module], Any]


def forward(x: torch.Tensor) -> Run:
    """The output of a layer."""

    def run(layer: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return layer(x)[0]

    return run


def training(x: torch.Tensor) -> Run:
    """The output of a layer and the gradients of its weights."""
    return lambda layer: torch.autograd.grad(layer(x)[0].square().mean(), tuple(layer.parameters()))


def error_of(name: str, ours: Any, theirs: Any) -> float:
    """By how much two results differ: outputs in absolute numbers, gradients relative to torch's, the worst of all."""
    if name == "forward":
        return float((ours - theirs).abs().max())
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


def row(kind: str, further: dict[str, Any], length: int, width: int, batch: int) -> list[dict[str, Any]]:
    """A layer of one shape, forward and training.

    Raises:
        RuntimeError: where outputs or gradients disagree.
    """
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(width, width, **further)
    ours = getattr(li.nn, kind)(width, width, **further)
    ours.load_state_dict(theirs.state_dict())
    x, rows = torch.randn(length, batch, width), []
    for name, run, most in ("forward", forward(x), ERROR), ("training", training(x), GRADIENT_ERROR):
        first = {"ours": first_run(lambda: run(ours)), "torch": first_run(lambda: run(theirs))}  # noqa: B023
        error = error_of(name, first["ours"].result, first["torch"].result)
        if not error < most:
            raise RuntimeError(f"{kind} {further} T={length} D={width} batch={batch}, {name}: error {error:.2g}")
        seconds = {who: one.seconds for who, one in first.items()}
        seconds["ours"] = 0.0  # the first run may have compiled
        runs = {"ours": lambda: run(ours), "torch": lambda: run(theirs)}  # noqa: B023
        times = alternately(runs, seconds, ROUNDS)
        rows.append(
            {
                "layer": kind, **further, "T": length, "D": width, "batch": batch, "of": name, "error": error,
                "threads": torch.get_num_threads(), "ours_ms": times["ours"].ms, "torch_ms": times["torch"].ms,
                "ratio": times["torch"].ms / times["ours"].ms,
            }
        )  # fmt: skip
    return rows


def main(
    quick: Annotated[bool, typer.Option(help="A few short rows, nothing written.")] = False,
    threads: Annotated[list[int] | None, typer.Option(help="Numbers of threads; 1 and 2 when left out.")] = None,
) -> None:
    """Time every layer and shape, print a line for each, and write `steps.json` beside the other results."""
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
            path: Path = results_folder() / "steps.json"
            path.write_text(json.dumps({"machine": describe(), "rounds": ROUNDS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
