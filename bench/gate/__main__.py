"""Compare counts and bytes with `bench/results/gate.json`: `python -m bench.gate [--update]`.

They have no noise, so that a larger number is the doing of a change. Ends with code 1, and names the rows, when one got
worse; `--update` writes the file anew, for a change that is worth what it costs or that makes a row better.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is first imported

from bench.common.pages import keep
from bench.gate.measure import Counts, measure

FILE = Path(__file__).parents[1] / "results" / "gate.json"


def worse(now: Counts, before: Counts) -> list[str]:
    """A line for each row that got larger or is missing."""
    grown = [
        f"{name}: {before[name]} before, {now[name]} now" for name in now if now[name] > before.get(name, now[name])
    ]
    return grown + [f"{name}: {before[name]} before, not measured now" for name in before if name not in now]


def better(now: Counts, before: Counts) -> list[str]:
    """A line for each row that got smaller or is new."""
    fallen = [
        f"{name}: {before[name]} before, {now[name]} now"
        for name in before
        if now.get(name, before[name]) < before[name]
    ]
    return fallen + [f"{name}: {now[name]}, new" for name in now if name not in before]


def main(update: bool = False) -> None:
    """Measure and compare."""
    now = measure()
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    for line in better(now, before):
        print(f"better  {line}")
    for line in worse(now, before):
        print(f"WORSE   {line}")
    if update:
        keep(now, FILE)
    elif worse(now, before):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
