"""The picture and the tables of `docs/background/map.md`, from `bench/results/<device>/map.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.pages import markdown
from bench.common.timing import mib
from recipes.canvas import pyplot, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COMMAND = "python -m bench.map"

PASSES = {False: "forward", True: "forward and backward"}

FURTHEST = 256.0
"""Ratios beyond this, and below one over it, have the colour of this."""


def axis(rows: list[dict[str, Any]], key: str) -> list[Any]:
    """The values of a coordinate that occur, ascending."""
    return sorted({row[key] for row in rows})


def short(ratio: float) -> str:
    """A ratio with two digits."""
    return f"{ratio:.0f}" if ratio >= 9.5 else f"{ratio:.1f}" if ratio >= 0.095 else f"{ratio:.2f}"


def picture(results: dict[str, Any], path: Path, *, training: bool) -> Path:
    """A panel for every batch: T across, D up, how many times faster `lds_iter` is in the cells; for light and dark."""
    cells = [cell for cell in results["cells"] if cell["training"] == training]
    batches = axis(cells, "batch")
    figure = pyplot().figure(figsize=(1.0 + 4.0 * len(batches), 3.9), layout="constrained")
    panels = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
    for ax, batch in zip(panels, batches, strict=True):
        image = panel(ax, [cell for cell in cells if cell["batch"] == batch])
        ax.set_title(f"{PASSES[training]}, batch {batch}")
    panels[0].set_ylabel("D")
    bar = figure.colorbar(image, ax=panels, shrink=0.9, pad=0.01)  # pyright: ignore[reportPossiblyUnboundVariable]
    bar.set_label("times faster than torch.nn.GRU")
    ticks = [1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64, 256]
    bar.set_ticks(ticks, labels=["1/64", "1/16", "1/4", "1", "4", "16", "64", "256"])
    bar.minorticks_off()
    return save(figure, path)


def panel(ax: Axes, cells: list[dict[str, Any]]) -> AxesImage:
    """One heat map; grey where no ratio was measured."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    lengths, widths = axis(cells, "T"), axis(cells, "D")
    ratios = np.full((len(widths), len(lengths)), np.nan)
    for cell in cells:
        y, x = widths.index(cell["D"]), lengths.index(cell["T"])
        if "ratio" in cell:
            ratios[y, x] = cell["ratio"]
        strong = "ratio" in cell and not 1 / 20 < cell["ratio"] < 20
        words = short(cell["ratio"]) if "ratio" in cell else "gate" if cell["state"] == "failed the gate" else ""
        ax.text(x, y, words, ha="center", va="center", fontsize=9, color="white" if strong else "#212121")
    colours = colormaps["PuOr"].with_extremes(bad="#b0b0b0")
    norm = LogNorm(1 / FURTHEST, FURTHEST)
    image = ax.imshow(ratios, origin="lower", aspect="auto", cmap=colours, norm=norm, interpolation="none")
    ax.set_xticks(range(len(lengths)), labels=[f"{length:,}" for length in lengths], fontsize=9, rotation=30)
    ax.set_yticks(range(len(widths)), labels=[str(width) for width in widths], fontsize=9)
    ax.set_xlabel("T")
    return image


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    machine, cells = results["lds_iter"], results["cells"]
    timed = [cell for cell in cells if cell["state"] == "timed"]
    lines = [
        "![How many times faster the layer is forward, over T, D and batch](../pictures/map-forward.svg#both)",
        "",
        "![How many times faster it is in training](../pictures/map-training.svg#both)",
        "",
        f"Hardware: {machine['cpu']}, {machine['threads']} threads, no GPU; torch {machine['torch']}, Python "
        f"{machine['python']}. A cell is timed only after its outputs have been found within {results['gate']:g} of "
        f"the peer's and its gradients within {results['gradient_gate']:g}, relative. In turns, medians; a contender "
        f"whose first run takes {results['long']:g} s or more runs once. {len(timed)} of {len(cells)} cells were "
        f"timed, {sum(cell['ratio'] > 1 for cell in timed)} of them faster than `torch.nn.GRU`, in "
        f"{results['seconds'] / 60:.0f} minutes. Grey cells have no time: {reasons(cells)}.",
        "",
        "## Every cell",
        "",
        "The error is the largest difference of an output, in training the largest "
        "relative difference of a parameter's gradient. Memory: by how much the process grew at most in one call, "
        "parameters and inputs not counted.",
    ]
    for training in axis(cells, "training"):
        for batch in axis(cells, "batch"):
            here = [cell for cell in timed if cell["training"] == training and cell["batch"] == batch]
            if here:
                lines += ["", f"### {PASSES[training].capitalize()}, batch {batch}", "", table(here)]
    return "\n".join(lines)


def reasons(cells: list[dict[str, Any]]) -> str:
    """Why some cells have no time, with counts."""
    states = [cell["state"] for cell in cells if cell["state"] != "timed"]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"


def table(cells: list[dict[str, Any]]) -> str:
    """One line for each cell, with everything that belongs to its time."""
    head = ["T", "D", "torch (ms)", "ours (ms)", "times faster", "error", "torch (MiB)"]
    lines = [
        [
            f"{cell['T']:,}",
            str(cell["D"]),
            f"{cell['peer_ms']:.3g}" if cell["peer_ms"] < 1000 else f"{cell['peer_ms']:.0f}",
            f"{cell['ours_ms']:.3g}" if cell["ours_ms"] < 1000 else f"{cell['ours_ms']:.0f}",
            f"**{short(cell['ratio'])}**",
            f"{cell['gradient_error'] if cell['training'] else cell['error']:.0e}",
            mib(cell["peer_peak_mib"]),
            mib(cell["ours_peak_mib"]),
        ]
        for cell in cells
    ]
    return markdown([*head, "ours (MiB)"], lines)
