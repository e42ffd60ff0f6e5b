"""How pictures look: Okabe and Ito's colours, markers, direct labels, a transparent ground, and ink for each scheme."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

import lds_iter as li

PICTURES = Path(__file__).parent.parent / "pictures"
INKS = {"": "#222222", "-dark": "#e2e4e9"}
"""The colour of text and axes, by the ending of the file's name."""

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, AMBER = "#56b4e9", "#e69f00"
COLOURS = (SKY, AMBER, GREEN, PINK)
"""Of Okabe and Ito, those that stand out on white and on dark grey. Lines differ in marker, too."""

MARKERS = ("o", "s", "^", "D")


def style(ink: str) -> dict[str, Any]:
    """Settings of matplotlib for one scheme."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, ink),
        "font.family": "DejaVu Sans",
        "font.size": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "grid.color": "#80808055",
        "legend.frameon": False,
        "svg.hashsalt": "lds_iter",
    }


def draw(name: str, picture: Callable[[], Figure]) -> None:
    """Draw a picture for light and for dark."""
    for ending, ink in INKS.items():
        with mpl.rc_context(style(ink)):
            path = PICTURES / f"{name}{ending}.svg"
            picture().savefig(path, transparent=True, dpi=160, metadata={"Date": None, "Creator": None})
            print(path)


def ink() -> str:
    """The colour of text in the scheme that is being drawn."""
    return mpl.rcParams["text.color"]


def draw_map(ax: Axes, solution: li.Solution, rows: int, floor: float) -> AxesImage:
    """The residual over time and iteration, all maps on one scale; black where everything is solved already."""
    assert solution.history is not None
    shown = min(rows, int(solution.iterations)) + 1
    residual = solution.history.residual_map[:shown].clamp(floor, 1)
    front = solution.history.accepted[:shown]
    length = residual.shape[1]
    image = ax.imshow(
        residual.numpy(),
        aspect="auto",
        interpolation="nearest",
        norm=LogNorm(vmin=floor, vmax=1),
        cmap="magma",
        extent=(0, length, shown - 0.5, -0.5),
    )
    inside = [y for y, reached in enumerate(front) if reached < length]
    ax.step([int(front[y]) for y in inside], inside, where="mid", color="white", linewidth=1.2)
    ax.set_ylim(rows + 0.5, -0.5)
    ax.set_xlabel("time step")
    ax.yaxis.get_major_locator().set_params(integer=True)
    return image
