"""What Levenberg-Marquardt costs per iteration beside the method that it damps, and how many iterations it takes.

`python -m bench.kalman` measures both, `--counts` the iterations alone, which are the same on any machine, `--costs`
the costs. Writes `bench/results/<device>/kalman.json` and, from that alone, the tables of `docs/background/kalman.md`;
what is not measured anew keeps its results. Costs: all methods run alternately in one process, a fixed number of
iterations from the same guess, medians of some rounds of the CPU time of the process, which has one thread; the bars
are ratios to the undamped method, 4 for dense Jacobians and 3 for diagonal ones. That method runs twice where a
recurrence has compiled iterations of its own, as a GRU has: once as the loop runs it for any recurrence, from the same
Jacobians that the damped ones get, and once fused, as a user gets it, without forming a Jacobian. Before anything is
timed, every method must reach the trajectory of the plain loop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.common.machine import describe, results_folder
from bench.common.pages import keep
from bench.kalman.measure import costs, counts
from bench.kalman.page import page
from recipes.files import write

PAGE = Path(__file__).parents[2] / "docs" / "background" / "kalman.md"


def main(
    only_counts: Annotated[bool, typer.Option("--counts", help="the iterations alone")] = False,
    only_costs: Annotated[bool, typer.Option("--costs", help="the costs alone")] = False,
    rounds: Annotated[int, typer.Option(help="of the costs, whose median is taken")] = 9,
) -> None:
    """Measure, keep the figures, write the page, and say which bars were missed."""
    torch.set_num_threads(1)
    file = results_folder() / "kalman.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if not only_costs:
        results["counts"] = counts()
    if not only_counts:
        results |= {"machine": describe(), "rounds": rounds, "costs": costs(rounds=rounds)}
    keep(results, file)
    write(PAGE, page(PAGE.read_text(), results))
    for row in results.get("costs", []):
        for base in "plain", "fused":
            for form in "filter", "smoother":
                ratio = row[f"{form}_ms"] / row.get(f"{base}_ms", float("inf"))
                if ratio > row["bar"]:
                    where = f"{form}, {row['problem']}, D={row['D']}"
                    print(f"above its bar of {row['bar']:.0f}: {where}: {ratio:.1f} of {base}")


if __name__ == "__main__":
    typer.run(main)
