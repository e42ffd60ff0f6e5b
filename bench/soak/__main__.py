"""100,000 solves and 10,000 training steps of varying shapes: `python -m bench.soak [--solves N] [--steps N]`.

Memory, descriptors, threads and objects are looked at on the way; the command ends with code 1 if one of them grew
after the first fifth, in which caches fill. Writes `bench/results/soak.json` and the table of `docs/about/tested.md`
when the solves are over, and again after the steps. Takes about 40 minutes; `--solves 0` or `--steps 0` leaves out a
part, whose earlier figures stay.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer

from bench.common.machine import describe
from bench.common.pages import between, keep, markdown
from bench.soak.measure import Held, growth, soak, solving, training
from recipes import files

ROOT = Path(__file__).parents[2]
FILE, PAGE = ROOT / "bench" / "results" / "soak.json", ROOT / "docs" / "about" / "tested.md"
COMMAND = "python -m bench.soak"
MOST_MIB, MOST_OBJECTS = 8.0, 2000
"""What may come on top after the warm-up: fragments of the allocator, entries of bounded tables."""


def grew(seen: list[Held]) -> bool:
    """Whether the process holds more than it did."""
    more = growth(seen)
    return more["mib"] > MOST_MIB or more["objects"] > MOST_OBJECTS or more["descriptors"] > 0 or more["threads"] > 0


def section(results: dict[str, Any]) -> str:
    """The table: the first look, the one at the end of the warm-up, the last."""
    lines = []
    for name, seen in results["runs"].items():
        for one in seen[0], seen[1], seen[-1]:
            numbers = [
                f"{one['done']:,}",
                f"{one['mib']:.0f}",
                one["descriptors"],
                one["threads"],
                f"{one['objects']:,}",
            ]
            lines.append([name, *(str(number) for number in numbers)])
    head = ["", "after", "memory, MiB", "descriptors", "threads", "Python objects"]
    return f"{results['cpu']}, torch {results['torch']}.\n\n{markdown(head, lines)}"


def main(solves: int = 100_000, steps: int = 10_000, write: bool = True) -> None:
    """Run both, print, and write the figures after each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    grown = {}
    for name, action, times in ("solves", solving, solves), ("training steps", training, steps):
        seen = []
        for one in soak(action(), times):
            seen.append(one)
            print(name, one, flush=True)
        if seen and grew(seen):
            grown[name] = growth(seen)
        if seen and write:
            _write(name, seen)
    if grown:
        print(grown)
        raise typer.Exit(1)


def _write(name: str, seen: list[Held]) -> None:
    """The figures of one run, beside those of the other, and the page."""
    former = json.loads(FILE.read_text())["runs"] if FILE.exists() else {}
    results = {**describe(), "runs": {**former, name: [asdict(one) for one in seen]}}
    keep(results, FILE)
    files.write(PAGE, between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    typer.run(main)
