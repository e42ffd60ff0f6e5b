"""Time over T, up to a million steps: `python -m bench.curves`.

`torch.nn.GRU` and `LSTM`, our layers by their default methods, and JAX's compiled loop where JAX is installed, forward
and in training, over T for a few widths and batches. Everything is checked against torch's layer before it is timed
(`bench.peers.measure`). A cell that would exceed the time that is left or the memory is marked and not run; torch's
training over a million steps is such a one, for its graph alone takes gigabytes. Writes
`bench/results/<device>/curves.json`, `docs/pictures/curves.png` and a section of `docs/background/map.md`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from bench.machine import describe, device_at_hand, full_precision, results_folder
from bench.pages import between, keep, markdown
from bench.peers.base import AbstractPeer
from bench.peers.jax_gru import JaxGRU
from bench.peers.measure import measure
from bench.peers.ours import OurGRU
from bench.peers.problems import GRUProblem
from bench.peers.torch_gru import TorchGRU

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMMAND = "python -m bench.curves"
PAGE, PICTURE = Path("docs/background/map.md"), Path("docs/pictures/curves.png")

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
SHAPES = [(torch.nn.GRU, 8, 1), (torch.nn.GRU, 32, 1), (torch.nn.GRU, 32, 8), (torch.nn.LSTM, 8, 1)]
"""Layer, D and batch."""

LONG = 1.0

STYLE = {"lds_iter": ("#1f4e9c", "o"), "torch.nn": ("#c0392b", "s"), "jax.lax.scan, jitted": ("#7f8c8d", "^")}

PEERS: dict[type, Sequence[AbstractPeer[Any]]] = {
    torch.nn.GRU: [OurGRU(None), TorchGRU(), JaxGRU()],
    torch.nn.LSTM: [OurGRU(None), TorchGRU()],
}


def problems(longest: int, device: str) -> list[GRUProblem]:
    """All cells, the cheapest first."""
    cells = [
        GRUProblem(length, width, batch, training, device, layer=layer)
        for length in LENGTHS
        if length <= longest
        for layer, width, batch in SHAPES
        for training in (False, True)
    ]
    return sorted(cells, key=seconds)


def seconds(problem: GRUProblem) -> float:
    """A rough estimate of all runs: torch's layer takes some microseconds a step, and runs twice or more."""
    once = problem.length * (150e-6 if problem.training else 13e-6) * max(1, problem.batch * problem.width / 128)
    return once * (2 if once > LONG else 6) + 10


def gib(problem: GRUProblem) -> float:
    """A rough estimate of the peak: in training torch keeps some 6 KiB a step for its graph, besides the numbers."""
    numbers = problem.length * problem.width * problem.batch
    return (numbers * 4 * (40 if problem.training else 10) + problem.length * (6144 if problem.training else 0)) / 2**30


def survey(cells: Sequence[GRUProblem], budget: float, memory: float, rounds: int) -> list[dict[str, Any]]:
    """Measure what fits a budget of seconds and GiB."""
    begin, tables = time.perf_counter(), []
    for problem in cells:
        shape = {"length": problem.length, "width": problem.width, "batch": problem.batch,
                 "training": problem.training, "layer": problem.layer.__name__}  # fmt: skip
        if gib(problem) > memory:
            tables.append({**shape, "state": "memory", "rows": []})
        elif time.perf_counter() - begin + seconds(problem) > budget:
            tables.append({**shape, "state": "time", "rows": []})
        else:
            table = measure(problem, PEERS[problem.layer], rounds=rounds, long=LONG)
            tables.append({**shape, "state": "timed", "rows": table["rows"]})
        print(tables[-1], flush=True)
    return tables


def picture(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """A column for each layer, width and batch; forward above, training below; both axes logarithmic."""
    from matplotlib.figure import Figure

    shapes = sorted({(table["layer"], table["width"], table["batch"]) for table in tables})
    figure = Figure(figsize=(3.4 * len(shapes), 6.2), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(shapes), squeeze=False, sharex=True, sharey="row")
    for i, training in enumerate((False, True)):
        for j, shape in enumerate(shapes):
            here = [
                table
                for table in tables
                if (table["layer"], table["width"], table["batch"], table["training"]) == (*shape, training)
            ]
            panel(panels[i, j], here)
            passes = "forward and backward" if training else "forward"
            panels[i, j].set_title(f"{shape[0]}, D = {shape[1]}, batch {shape[2]}\n{passes}", fontsize=9)
    for ax in panels[1]:
        ax.set_xlabel("T")
    for row in panels:
        row[0].set_ylabel("ms")
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path, facecolor="white", metadata={"Software": None})


def panel(ax: Axes, tables: Sequence[dict[str, Any]]) -> None:
    """One line for each contender."""
    for name, (colour, marker) in STYLE.items():
        points = sorted(
            (table["length"], row["ms"])
            for table in tables
            for row in table["rows"]
            if row["peer"] == name and "ms" in row
        )
        ax.loglog(
            *([list(axis) for axis in zip(*points, strict=True)] or [[], []]), color=colour, marker=marker, label=name
        )
    ax.grid(True, which="major", color="#dddddd")


def line(table: dict[str, Any]) -> list[str]:
    """One line of the table; without our time, the reason."""
    rows = {row["peer"]: row for row in table["rows"] if "ms" in row}
    shape = [table["layer"], str(table["width"]), str(table["batch"])]
    shape += ["training" if table["training"] else "forward", f"{table['length']:,}"]
    others = [f"{rows[name]['ms']:.3g}" if name in rows else "" for name in list(STYLE)[1:]]
    ours, peer = rows.get("lds_iter"), rows.get("torch.nn")
    if ours is None:
        return [*shape, *others, "failed" if table["state"] == "timed" else f"not run: {table['state']}", "", "", ""]
    ratio = f"**{peer['ms'] / ours['ms']:.2g}**" if peer else ""
    error = ours["gradient_error"] if table["training"] else ours["error"]
    return [*shape, *others, f"{ours['ms']:.3g}", ratio, str(ours["iterations"]), f"{error:.0e}"]


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    machine = results["lds_iter"]
    head = ["layer", "D", "batch", "", "T", "torch (ms)", "JAX, compiled loop (ms)", "ours (ms)",
            "times faster than torch", "iterations", "error"]  # fmt: skip
    keys = ("layer", "width", "batch", "training", "length")
    lines = [line(table) for table in sorted(results["tables"], key=lambda table: [table[key] for key in keys])]
    words = (
        f"![Time over T](../pictures/curves.png)\n\n{machine['device']}, {machine['threads']} threads; torch "
        f"{machine['torch']}. Ours is the layer of `li.nn` by its default method. Cells that would not fit "
        f"{results['memory']:g} GiB or the time that was left were not run.\n\n"
    )
    return words + markdown(head, lines)


def main(
    budget: Annotated[float, typer.Option(help="Seconds for all cells together.")] = 240.0,
    memory: Annotated[float, typer.Option(help="GiB for one cell.")] = 6.0,
    longest: Annotated[int, typer.Option(help="Leave out longer series.")] = LENGTHS[-1],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure the curves, draw them, and write the page."""
    full_precision()
    tables = survey(problems(longest, device_at_hand()), budget, memory, rounds)
    results = {"lds_iter": describe(), "budget": budget, "memory": memory, "rounds": rounds, "tables": tables}
    folder = results_folder() if out is None else out
    text = between(PAGE.read_text(), COMMAND, section(results))
    keep(results, folder / "curves.json", PAGE if out is None else out / "map.md", text)
    picture(tables, PICTURE if out is None else out / "curves.png")


if __name__ == "__main__":
    typer.run(main)
