"""How all pictures look: Okabe and Ito's colours with markers, labels at the lines, SVG for light and for dark."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, DARK_INK = "#222222", "#e2e4e9"
"""The colour of text and axes on a light and on a dark ground. Nothing else is drawn in the first."""

SKY, AMBER, GREEN, PINK, ORANGE, BLUE = "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2"
COLOURS = (SKY, AMBER, GREEN, PINK, ORANGE, BLUE)
"""Of Okabe and Ito, those that stand out on white and on dark grey, the clearest first."""

MARKERS = ("o", "s", "^", "D", "v", "P")

GAP = 0.075
"""Least distance of two labels, in heights of the axes."""


def look(ink: str = INK) -> dict[str, Any]:
    """Settings of matplotlib: a transparent ground, and these colours."""
    from cycler import cycler

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, ink),
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.facecolor": "none",
        "axes.prop_cycle": cycler(color=COLOURS),
        "figure.facecolor": "none",
        "grid.color": "#80808055",
        "legend.frameon": False,
        "svg.hashsalt": "lds_iter",
    }


def pyplot() -> Any:
    """`matplotlib.pyplot` with this look, without a window; imported here: a recipe without a picture needs none."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    settings: Any = look()
    plt.rcParams.update(settings)
    return plt


def label(ax: Axes) -> None:
    """Write the label of each line at its right end in its colour, and give it a marker. Call it when all is drawn."""
    import numpy as np

    ends, _ = [], ax.get_ylim()  # which settles the limits
    named = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    for line, marker in zip(named, itertools.cycle(MARKERS), strict=False):
        if line.get_marker() == "None":
            line.set(marker=marker, markevery=max(1, len(np.asarray(line.get_xdata())) // 8), markersize=5)
        end = np.asarray(line.get_xydata())[-1]
        place = ax.transAxes.inverted().transform(ax.transData.transform(end))
        ends.append((float(place[1]), str(line.get_label()), line.get_color()))
    lowest = -1.0
    for y, name, colour in sorted(ends):
        lowest = max(y, lowest + GAP)
        ax.text(1.02, lowest, name, color=colour, transform=ax.transAxes, va="center", fontweight="bold", fontsize=9)


def vector(figure: Any, dpi: int = 120) -> str:
    """A figure as SVG on a transparent ground, the same text for the same picture."""
    written = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    figure.savefig(written, format="svg", dpi=dpi, bbox_inches="tight", transparent=True, metadata=metadata)
    return written.getvalue()


def dark(svg: str) -> str:
    """The same picture for a dark ground."""
    return svg.replace(INK, DARK_INK)


def save(figure: Any, path: Path, dpi: int = 120) -> Path:
    """Write a figure, cut to what it shows, as `NAME.svg` and `NAME-dark.svg`, and close it.

    Args:
        figure: of matplotlib, drawn with this look.
        path: of the file for light, whose name ends in `.svg`; its folder is made where it is missing.
        dpi: dots an inch, of what is drawn in pixels.

    Returns:
        The path.
    """
    from recipes.files import write  # the builder of the guide reads this module by its path, and saves nothing

    svg = vector(figure, dpi)
    write(path, svg)
    write(path.with_stem(f"{path.stem}-dark"), dark(svg))
    pyplot().close(figure)
    return path
