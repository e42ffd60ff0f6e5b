"""The pictures: iterations against the exponent, over T, and over the iterations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recipes.canvas import ORANGE, SKY, pyplot, save
from recipes.predictability.measure import MERIT, Langevin, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = "#808080"
"""Of thresholds; seen on light and on dark."""


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure, axes = pyplot().subplots(1, count, figsize=(4.6 * count, 3.4), layout="constrained", squeeze=False)
    return figure, list(axes.flat)


def network_picture(points: Sequence[Point], path: Path) -> Path:
    """Like the paper's figures 2 and 4: counts over the exponent, and over exponent and T."""
    figure, (threshold, experiment) = _panels(2)
    length = points[0].length
    for wrong, colour, marker, words in (
        (False, SKY, "o", "● the loop's trajectory"),
        (True, ORANGE, "^", "▲ another one, off by > 0.1"),
    ):
        here = [point for point in points if _elsewhere(point) == wrong]
        threshold.plot([p.exponent for p in here], [p.iterations for p in here], marker, color=colour)
        if here:
            threshold.text(0.03, 0.95 - 0.09 * wrong, words, va="top", color=colour, transform=threshold.transAxes)
    threshold.set(xlabel="exponent, nats per step", ylabel="iterations", title=f"iterations at T = {length:,}")
    threshold.set_ylim(0, None)
    threshold.grid(visible=True)
    _experiment(experiment, points, length)
    for ax in threshold, experiment:
        ax.axvline(0, color=LINE, linestyle=":", linewidth=1.2)
    return save(figure, path, dpi=130)


def _elsewhere(point: Point) -> bool:
    """Whether the states found are those of another trajectory, though no residual exceeds the tolerance."""
    return point.off is not None and point.off > 0.1


def _experiment(ax: Axes, points: Sequence[Point], length: int) -> None:
    """Iterations per step over exponent and T, a strip for every solve, which reaches half-way to its neighbours."""
    ordered = sorted(points, key=lambda point: point.exponent)
    centres = torch.tensor([point.exponent for point in ordered], dtype=torch.float64, device="cpu")
    middles = (centres[1:] + centres[:-1]) / 2
    edges = torch.cat([centres[:1], middles, centres[-1:]])
    lengths = torch.linspace(length / 50, length, 50, device="cpu").round().long()
    heights = torch.cat([lengths.new_zeros(1), lengths])
    recorded = [point.counts for point in ordered if point.counts is not None]
    shares = torch.stack([counts[lengths - 1] / lengths for counts in recorded], 1)
    image = ax.pcolormesh(edges, heights, shares, cmap="viridis", vmin=0, vmax=1, rasterized=True)
    ax.figure.colorbar(image, ax=ax, label="iterations / T")
    ax.set(xlabel="exponent, nats per step", ylabel="T", title="iterations per step, at every length")


def langevin_picture(found: Langevin, path: Path) -> Path:
    """Like the paper's figure 7: the exponents and merits of the iterates, and how the count grows with T."""
    figure, (exponents, merits, counts) = _panels(3)
    for ax, values in (exponents, found.exponents), (merits, found.merits.clamp(min=1e-20)):
        _spread(ax, range(len(values)), values)
        ax.set(xlabel="iteration (0: the guess)")
    exponents.axhline(0, color=LINE, linestyle=":", linewidth=1.2)
    exponents.set(title="exponent along the iterate", ylabel="nats per step")
    merits.axhline(MERIT, color=ORANGE, linestyle="--", linewidth=1)
    merits.text(
        1.02, MERIT, "solved\nbelow", transform=merits.get_yaxis_transform(), va="center", color=ORANGE, fontsize=9
    )
    merits.set(title="merit of the iterate", ylabel="$|r|^2 / 2T$ (not below $10^{-20}$)", yscale="log")
    _spread(counts, range(1, len(found.counts) + 1), found.counts.double())
    counts.set(title="iterations", xlabel="T", ylabel="iterations of Newton's method", ylim=(0, None))
    counts.legend(loc="lower right")
    return save(figure, path, dpi=130)


def _spread(ax: Axes, x: Sequence[int], values: Tensor) -> None:
    """Median and range over the noise seeds."""
    ax.fill_between(x, values.min(1).values, values.max(1).values, color="#80808060", label="all seeds")
    ax.plot(x, values.quantile(0.5, 1), color=SKY, label="median")


def flow_picture(observers: Sequence[Point], systems: Sequence[Point], rings: Sequence[Point], path: Path) -> Path:
    """Observers (and a flow itself) on the left; on the right the ring over its forcing, exponents under iterations."""
    figure = pyplot().figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.3, 1))
    flows, length = left.subplots(), observers[0].length
    for points, colour, hatch, name in (observers, SKY, "", "observer"), (systems, ORANGE, "//", "the flow itself"):
        if points:
            bars = flows.barh(
                [_name(p) for p in points], [p.iterations for p in points], color=colour, hatch=hatch, label=name
            )
            flows.bar_label(bars, padding=3, fontsize=9)
    flows.set(xscale="log", xlabel="iterations", xlim=(0.8, length), title=f"flows, T = {length:,} (exponent per step)")
    flows.tick_params(axis="y", labelsize=9)
    flows.legend(loc="upper right", fontsize=9)
    flows.invert_yaxis()
    counts, exponents = right.subplots(2, 1, sharex=True)
    forces = [float(point.label) for point in rings]
    counts.plot(forces, [point.iterations for point in rings], "o-")
    counts.set(ylabel="iterations", title=f"Lorenz-96, T = {rings[0].length:,}", ylim=(0, None))
    exponents.plot(forces, [point.exponent for point in rings], color=ORANGE, marker="s")
    exponents.axhline(0, color=LINE, linestyle=":", linewidth=1)
    exponents.set(xlabel="forcing F", ylabel="nats per step")
    return save(figure, path, dpi=130)


def _name(point: Point) -> str:
    return f"{point.label} ({point.exponent:+.2g})"
