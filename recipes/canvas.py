"""How all recipes draw: without a window, into a file that is the same for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """`matplotlib.pyplot` that opens no window; imported here, so that a recipe without a picture does without it."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path, dpi: int = 120) -> Path:
    """Write a figure cut to what it shows, without the version of matplotlib, and close it.

    Args:
        figure: of matplotlib.
        path: of the file; its folder is made where it is missing.
        dpi: dots an inch.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)
    return path
