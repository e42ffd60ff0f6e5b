"""What the page says of it: see `python -m bench.curves`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.pages import markdown
from recipes.canvas import GREEN, ORANGE, SKY, label, pyplot, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = {"lds_iter": (SKY, "o"), "torch.nn": (ORANGE, "s"), "jax.lax.scan, jitted": (GREEN, "^")}
SHORT = {"lds_iter": "lds_iter", "torch.nn": "torch", "jax.lax.scan, jitted": "JAX"}


def picture(tables: Sequence[dict[str, Any]], path: Path) -> Path:
    """A column for each layer, width and batch; forward above, training below; both axes logarithmic."""
    shapes = sorted({(table["layer"], table["width"], table["batch"]) for table in tables})
    figure = pyplot().figure(figsize=(3.4 * len(shapes), 6.2), layout="constrained")
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
            panels[i, j].set_title(f"{shape[0]}, D = {shape[1]}, batch {shape[2]}\n{passes}", fontsize=10)
    for ax in panels[1]:
        ax.set_xlabel("T")
    for row in panels:
        row[0].set_ylabel("ms; lower is faster")
    for ax in panels[:, 0]:
        label(ax)
    return save(figure, path)


def panel(ax: Axes, tables: Sequence[dict[str, Any]]) -> None:
    """One line for each contender."""
    for name, (colour, marker) in STYLE.items():
        points = sorted(
            (table["length"], row["ms"])
            for table in tables
            for row in table["rows"]
            if row["peer"] == name and "ms" in row
        )
        if points:
            ax.loglog(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=SHORT[name])
    ax.grid(visible=True, which="major")


def line(table: dict[str, Any]) -> list[str]:
    """One line of the table; without our time, the reason."""
    rows = {row["peer"]: row for row in table["rows"] if "ms" in row}
    shape = [table["layer"], str(table["width"]), str(table["batch"])]
    shape += ["training" if table["training"] else "forward", f"{table['length']:,}"]
    others = [f"{rows[name]['ms']:.3g}" if name in rows else "" for name in list(STYLE)[1:]]
    ours, peer = rows.get("lds_iter"), rows.get("torch.nn")
    if ours is None:
        return [*shape, *others, "failed" if table["state"] == "timed" else f"not run: {table['state']}", "", "", ""]
    ratio = f"**{float(format(peer['ms'] / ours['ms'], '.2g')):g}**" if peer else ""
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
        f"![Time over T](../pictures/curves.svg#both)\n\n{machine['device']}, {machine['threads']} threads; torch "
        f"{machine['torch']}. Ours is the layer of `li.nn` by its default method. Cells that would not fit "
        f"{results['memory']:g} GiB or the time that was left were not run.\n\n"
    )
    return words + markdown(head, lines)
