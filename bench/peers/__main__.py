"""Every peer that is installed, beside ours, on the device at hand: `python -m bench.peers [--only scan]`.

Peers come with `pip install '.[peers]'`; one that is missing keeps its row, with what to type. Writes
`bench/results/<device>/peers.json` and a section of `docs/background/peers.md`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import lds_iter as li
from bench.common.machine import describe, device_at_hand, full_precision, results_folder
from bench.common.pages import keep_of_device
from bench.peers import gradient
from bench.peers.accelerated_scan import AcceleratedScan
from bench.peers.base import AbstractPeer
from bench.peers.compiled_loop import CompiledLoop
from bench.peers.flashrnn import FlashRNN
from bench.peers.jax_deer import JaxNewton, JaxQuasiNewton
from bench.peers.jax_gru import JaxGRU
from bench.peers.jax_scan import JaxScan
from bench.peers.measure import LONG, ROUNDS, measure
from bench.peers.ours import OurGRU, OurODE, OurScan
from bench.peers.page import COMMAND, section
from bench.peers.problems import RESIDUAL, GRUProblem, ODEProblem, ScanProblem
from bench.peers.torch_gru import TorchGRU
from bench.peers.torch_scan import TorchScan
from bench.peers.torchdeq import TorchDEQ
from bench.peers.torchdiffeq import Dopri5, TorchDiffEq

PAGE = Path("docs/background/peers.md")

PEERS: dict[type, Sequence[AbstractPeer[Any]]] = {
    GRUProblem: [
        OurGRU(li.QuasiNewton()),
        OurGRU(li.Newton()),
        TorchGRU(),
        CompiledLoop(),
        FlashRNN(),
        JaxGRU(),
        JaxNewton(),
        JaxQuasiNewton(),
        TorchDEQ("fixed_point_iter"),
        TorchDEQ("anderson"),
        TorchDEQ("broyden"),
    ],
    ScanProblem: [OurScan(), TorchScan(), AcceleratedScan(), JaxScan()],
    ODEProblem: [OurODE(), TorchDiffEq(), Dopri5()],
}
"""Ours first: the others are compared with it."""

PROBLEMS: dict[str, list[Any]] = {
    "gru": [
        GRUProblem(10_000, 8),
        GRUProblem(10_000, 32),
        GRUProblem(10_000, 32, batch=8),
        GRUProblem(100_000, 8),
        GRUProblem(10_000, 8, training=True),
        GRUProblem(10_000, 32, training=True),
    ],
    "scan": [ScanProblem(10_000, 8), ScanProblem(100_000, 32), ScanProblem(1_000_000, 8)],
    "ode": [
        ODEProblem(10_000, "euler"),
        ODEProblem(10_000, "rk4"),
        ODEProblem(1_000, "rk4", batch=16),
    ],
}


def main(
    only: Annotated[str, typer.Option(help="gru, scan or ode; all when empty.")] = "",
    length: Annotated[int | None, typer.Option(help="At most so many steps: for trying it out.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = ROUNDS,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure, print, keep the figures, and write the page."""
    if only and only not in PROBLEMS:
        raise typer.BadParameter(f"expected one of {', '.join(PROBLEMS)}, got {only}")
    if only and out is None:
        raise typer.BadParameter("a part of the tables does not replace the page: add --out FOLDER")
    torch.compiler.config.force_disable_caches = True  # a first call is to compile, whatever lies on the disk
    full_precision()
    device, begin = device_at_hand(), time.perf_counter()
    tables = []
    for problem in PROBLEMS[only] if only else itertools.chain(*PROBLEMS.values()):
        steps = problem.length if length is None else min(length, problem.length)
        here = dataclasses.replace(problem, length=steps, device=device)
        tables.append(measure(here, PEERS[type(problem)], rounds=rounds))
        for row in tables[-1]["rows"]:
            print(type(problem).__name__, steps, row, flush=True)
    results = {
        "lds_iter": describe(), "residual": RESIDUAL, "rounds": rounds, "long": LONG, "tables": tables,
        "gradients": gradient.compare() if not only or only == "scan" else [],
        "seconds": time.perf_counter() - begin,
    }  # fmt: skip
    keep_of_device(results, "peers", PAGE, COMMAND, section, folder=results_folder(), out=out)


if __name__ == "__main__":
    typer.run(main)
