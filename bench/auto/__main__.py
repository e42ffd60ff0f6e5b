"""`li.Auto()` against every fixed choice and against step-by-step evaluation: `python -m bench.auto [--only NAME]`.

Contenders run in turns, each in an order of its own, medians of `ROUNDS`; whose first run takes `LONG` or longer does
not run again, and who is `HOPELESS` times slower than step by step is stopped. *First* is a new `Auto`, which knows
nothing; *kept* is one that has seen the problem `WARM` times. A layer is the default one, which has compiled steps on a
CPU. A figure counts only where the gate passed: states whose residual is within the tolerance, evaluated anew, or
outputs (and in training gradients) as torch's. Writes `bench/results/<device>/auto.json` after each problem and a
section of `docs/background/auto.md`. Wants a quiet machine; all of it takes some twenty minutes, `--quick` a few.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.auto.measure import measure
from bench.auto.page import COMMAND, section
from bench.auto.problems import cases
from bench.common.machine import describe, results_folder
from bench.common.pages import between
from recipes.files import write

PAGE = Path("docs/background/auto.md")


def main(
    only: Annotated[str, typer.Option(help="problems whose name contains this")] = "",
    held_out: Annotated[bool, typer.Option(help="only those that nothing was chosen on")] = False,
    quick: Annotated[bool, typer.Option(help="only what is raced, without layers: at most ten minutes")] = False,
) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    path = results_folder() / "auto.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    order = [case.name for case in cases()]
    for case in cases():
        if only not in case.name or (held_out and not case.held_out) or (quick and not case.raced):
            continue
        row = measure(case)
        print(row["problem"], {name: round(ms, 2) for name, ms in row["ms"].items()}, row["wrong"], flush=True)
        results["rows"][case.name] = row
        results["rows"] = {name: results["rows"][name] for name in order if name in results["rows"]}
        results["machine"] = describe()
        write(path, json.dumps(results, indent=1) + "\n")
        write(PAGE, between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    typer.run(main)
