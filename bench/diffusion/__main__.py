"""Denoising in parallel against ParaDiGMS, ParaTAA and SRDS, by counts: `python -m bench.diffusion`.

The same network (the digits of `recipes.diffusion`), the same noise, one sample at a time. ParaDiGMS and `lds_iter` are
run at tolerances of their own, the loosest first, until the final sample is within 1e-3; what counts for a bar of 1e-2
or 1e-3 is the run with the fewest rounds whose final sample is within the bar, root mean square, of what the scheduler
draws step by step. ParaTAA and SRDS are stopped by an oracle, in the round in which their sample is within the bar, and
ParaTAA at the best of three orders. Rounds and evaluations do not depend on the machine.

Writes `bench/results/diffusion.json` and, from that alone, `docs/background/diffusion.md`. Runs that end are also
written to `out/diffusion-rows.jsonl`, line by line; with `--resume` those found there are not run again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
import typer

from bench.common.machine import describe
from bench.common.pages import keep
from bench.diffusion.measure import Row, measure
from bench.diffusion.page import PAGE, page
from recipes.files import whole_lines, write

ROOT = Path(__file__).parents[2]
JSON = ROOT / "bench" / "results" / "diffusion.json"
LINES = ROOT / "out" / "diffusion-rows.jsonl"


def main(
    steps: str = "20,50,100,250,1000", seeds: int = 0, methods: str = "", resume: bool = False, again: str = ""
) -> None:
    """Measure, print, and write the JSON file and the page.

    Args:
        steps: which, separated by commas.
        seeds: how many samples of each; a number that shrinks with the steps when 0.
        methods: names of the table, separated by semicolons; all when empty.
        resume: keep the runs that a former call wrote down, which must have been of the same code.
        again: names of methods, separated by semicolons: measure these alone, and keep the runs of all others that the
            JSON file holds. For a change of one method, in minutes.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen, wanted = [int(count) for count in steps.split(",")], {name for name in methods.split(";") if name}
    lines = whole_lines(LINES) if resume else []
    known, rows = list(dict.fromkeys(Row(**json.loads(line)) for line in lines)), []
    if again:
        former = json.loads(JSON.read_text())
        wanted, chosen = set(again.split(";")), [count for count in former["steps"] if count in chosen]
        rows = [row for row in former["rows"] if row["method"] not in wanted or row["steps"] not in chosen]
    write(LINES, "".join(f"{line}\n" for line in lines))
    with LINES.open("a") as file:
        for row in measure(chosen, seeds, known, wanted):
            rows.append(asdict(row))
            print(*rows[-1].values(), flush=True)
            if row not in known:
                print(json.dumps(rows[-1]), file=file, flush=True)
    measured = sorted({row["steps"] for row in rows})
    results = {**describe(), "steps": measured, "rows": rows}
    keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
