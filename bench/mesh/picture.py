"""The picture of `docs/background/time-sharding.md`: what is gained over one GPU, over the number of GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.mesh.forecast import LENGTHS, Fleet, alone, shared
from bench.mesh.page import works
from recipes.canvas import COLOURS, label, pyplot, save

RANKS = [2**k for k in range(1, 11)]
NODE = 8
"""GPUs that NVLink joins."""
TITLES = {"Newton, dense": "full matrices", "QuasiNewton": "a diagonal"}


def picture(results: dict[str, Any], path: Path) -> Path:
    """A panel for each kind; a line for each T, labelled where it ends; NVLink up to 8 GPUs, InfiniBand beyond."""
    found = works(results)
    figure = pyplot().figure(figsize=(10, 3.8), layout="constrained")
    for ax, (kind, title) in zip(figure.subplots(1, 2, sharey=True), TITLES.items(), strict=True):
        for length, colour in zip(LENGTHS, COLOURS, strict=False):
            one = alone(kind, length, 1, found).seconds
            fleets = [Fleet(ranks, "NVLink" if ranks <= NODE else "InfiniBand") for ranks in RANKS]
            gains = [one / shared(kind, length, 1, fleet, found).seconds for fleet in fleets]
            ax.loglog(RANKS, gains, color=colour, label=f"T = {length:,}")
        ax.axhline(1, color="#808080", linewidth=1)
        ax.plot(RANKS, RANKS, color="#808080", linewidth=1, linestyle=":")
        ax.set(title=title, xlabel="GPUs", xlim=(1.7, 1200), ylim=(0.1, 1500))
        ax.set_xticks([2, 8, 64, 1024], ["2", "8", "64", "1,024"])
        ax.minorticks_off()
        ax.grid(visible=True)
        label(ax)
    figure.axes[0].set_ylabel("times as fast as one GPU")
    return save(figure, path)
