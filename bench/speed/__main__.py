"""Speed and memory against `torch.nn.GRU`, ours and the peer alternately in one process; run by `make bench`.

`python -m bench.speed` runs `measure.py` and `layers.py` under pytest-benchmark, writes
`bench/results/<device>/speed.json` and the page
`docs/background/speed.md`. Every row passes its correctness gate before anything is timed. In each round the peer runs
first (as the round's set-up), then ours, so that both see the same state of a noisy machine; the figure is the ratio of
medians. Times include the input projections, which `torch.nn.GRU` does too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

import lds_iter as li
from bench.common.machine import describe, results_folder
from bench.common.pages import keep
from bench.speed import layers, measure
from bench.speed.page import page


def main() -> None:
    """Run `measure.py` and `layers.py`, keep the figures, write the page, and say whether every bar was reached."""
    folder = results_folder()
    raw = folder / "raw.json"
    arguments = [
        measure.__file__,
        layers.__file__,
        "-q",
        "-o",
        "addopts=",
        "-W",
        "default",
        f"--benchmark-json={raw}",
        "--benchmark-columns=median,rounds",
    ]
    code = pytest.main(arguments)
    if code:
        raise typer.Exit(code)
    full = json.loads(raw.read_text())
    raw.unlink()
    kept = {
        "lds_iter": describe(),
        "compiled": all(Path(used).is_file() for used in li.kernels.cpu.status().values()),
        "benchmarks": [{"name": b["name"], "extra_info": b["extra_info"]} for b in full["benchmarks"]],
    }
    keep(kept, folder / "speed.json", Path("docs/background/speed.md"), page(kept))
    infos = [b["extra_info"] for b in kept["benchmarks"] if b["extra_info"].get("ratio") and b["extra_info"]["bar"]]
    missed = [info for info in infos if info["ratio"] < info["bar"]]
    for info in missed:
        print(f"below its bar of {info['bar']}: T={info['T']}, D={info['D']}: {info['ratio']:.1f}")
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
