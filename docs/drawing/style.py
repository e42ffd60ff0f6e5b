"""How the guide's pictures are drawn and kept: by the look of `recipes.canvas`, for light and for dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

import lds_iter as li
from recipes.canvas import pyplot, save

PICTURES = Path(__file__).parent.parent / "pictures"


def draw(name: str, picture: Callable[[], Figure]) -> None:
    """Draw a picture for light and for dark."""
    pyplot().rcParams["font.size"] = 12
    save(picture(), PICTURES / f"{name}.svg", dpi=160)


def draw_map(
    ax: Axes, solution: li.Solution, rows: int, floor: float
) -> AxesImage:
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
    ax.step(
        [int(front[y]) for y in inside],
        inside,
        where="mid",
        color="white",
        linewidth=1.2,
    )
    ax.set_ylim(rows + 0.5, -0.5)
    ax.set_xlabel("time step")
    ax.yaxis.get_major_locator().set_params(integer=True)
    return image
