"""Times layers by compiled steps against torch's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import lds_iter as li
from bench.common.timing import alternately, first_run
from bench.speed.layers import ERROR, GRADIENT_ERROR

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
    label = ", ".join([kind, *(f"{key}={value}" for key, value in further.items())])
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
                "layer": label, "T": length, "D": width, "batch": batch, "of": name, "error": error,
                "threads": torch.get_num_threads(), "ours_ms": times["ours"].ms, "torch_ms": times["torch"].ms,
                "ratio": times["torch"].ms / times["ours"].ms,
            }
        )  # fmt: skip
    return rows
