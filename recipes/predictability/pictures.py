"""The pictures: iterations against the exponent, over T, and over the iterations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter.diagnostics import mu_bounds
from recipes.canvas import save
from recipes.predictability.measure import MERIT, Langevin, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED = "#3b4cc0", "#d1495b"


def _panels(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def network_picture(points: Sequence[Point], path: Path) -> Path:
    """Like the paper's figures 2 and 4: theory and counts over exponent and T, the threshold, and the exponents."""
    figure, (theory, experiment, threshold, spectrum) = _panels(2, 2)
    length = points[0].length
    _theory(theory, points, length)
    _experiment(experiment, points, length)
    colours = [RED if _elsewhere(point) else BLUE for point in points]
    threshold.scatter([p.exponent for p in points], [p.iterations for p in points], s=18, c=colours, zorder=3)
    threshold.set(xlabel="exponent, nats per step", ylabel="iterations", title=f"iterations at T = {length:,}")
    threshold.set_ylim(0, None)
    threshold.grid(alpha=0.4)
    threshold.text(
        0.02,
        0.96,
        "red: converged to another\ntrajectory (off by > 0.1)",
        va="top",
        fontsize=8,
        color=RED,
        transform=threshold.transAxes,
    )
    for ax in theory, experiment, threshold:
        ax.axvline(0, color="k", linestyle=":", linewidth=1.2)
    groups = [[point.exponent for point in group] for _, group in _by_gain(points)]
    gains = [gain for gain, _ in _by_gain(points)]
    seeds = len(groups[0])
    spectrum.fill_between(
        gains, [min(group) for group in groups], [max(group) for group in groups], color="0.8", label="range"
    )
    spectrum.plot(gains, [median(group) for group in groups], "o-", color=BLUE, markersize=4, label="median")
    spectrum.axhline(0, color="k", linestyle=":", linewidth=1.2)
    spectrum.legend(frameon=False)
    spectrum.set(xlabel="gain g", ylabel="exponent, nats per step", title=f"exponent over gain, {seeds} seed(s)")
    return save(figure, path, dpi=130)


def _by_gain(points: Sequence[Point]) -> list[tuple[float, list[Point]]]:
    gains = sorted({float(point.label) for point in points})
    return [(gain, [point for point in points if float(point.label) == gain]) for gain in gains]


def _elsewhere(point: Point) -> bool:
    """Whether the states found are those of another trajectory, though no residual exceeds the tolerance."""
    return point.off is not None and point.off > 0.1


def _experiment(ax: Axes, points: Sequence[Point], length: int) -> None:
    """Iterations per step over exponent and T, a strip for every solve, which reaches half-way to its neighbours."""
    ordered = sorted(points, key=lambda point: point.exponent)
    centres = torch.tensor([point.exponent for point in ordered], dtype=torch.float64)
    middles = (centres[1:] + centres[:-1]) / 2
    edges = torch.cat([centres[:1], middles, centres[-1:]])
    lengths = torch.linspace(length / 50, length, 50).round().long()
    heights = torch.cat([lengths.new_zeros(1), lengths])
    recorded = [point.counts for point in ordered if point.counts is not None]
    shares = torch.stack([counts[lengths - 1] / lengths for counts in recorded], 1)
    image = ax.pcolormesh(edges, heights, shares, cmap="coolwarm", vmin=0, vmax=1, rasterized=True)
    ax.figure.colorbar(image, ax=ax, label="iterations / T")
    ax.set(xlabel="exponent, nats per step", ylabel="T", title="experiment: iterations per step")


def _theory(ax: Axes, points: Sequence[Point], length: int) -> None:
    """`-log` of the lower bound of mu, over exponent and T."""
    exponents = [point.exponent for point in points]
    rates = torch.linspace(min(exponents), max(exponents), 200, dtype=torch.float64)
    lengths = torch.linspace(1, length, 100).round().long()
    lower = torch.stack([mu_bounds(rates, int(steps))[0] for steps in lengths])
    extent = (float(rates[0]), float(rates[-1]), 1, length)
    image = ax.imshow(-lower, extent=extent, aspect="auto", origin="lower", cmap="coolwarm")
    ax.figure.colorbar(image, ax=ax, label="bound of $-\\log\\mu$, nats")
    ax.set(xlabel="exponent, nats per step", ylabel="T", title="theory: condition of the problem")


def langevin_picture(found: Langevin, path: Path) -> Path:
    """Like the paper's figure 7: the exponents and merits of the iterates, and how the count grows with T."""
    figure, (exponents, merits, counts) = _panels(1, 3)
    for ax, values in (exponents, found.exponents), (merits, found.merits.clamp(min=1e-20)):
        _spread(ax, range(len(values)), values)
        ax.set(xlabel="iteration (0: the guess)")
    exponents.axhline(0, color="k", linestyle=":", linewidth=1.2)
    exponents.set(title="exponent along the iterate", ylabel="nats per step")
    merits.axhline(MERIT, color=RED, linestyle="--", linewidth=1)
    merits.text(len(found.merits) - 1, MERIT, "solved below", ha="right", va="top", color=RED, fontsize=8)
    merits.set(title="merit of the iterate", ylabel="$|r|^2 / 2T$ (not below $10^{-20}$)", yscale="log")
    _spread(counts, torch.arange(1, len(found.counts) + 1), found.counts.double())
    counts.set(title="iterations", xlabel="T", ylabel="iterations of Newton's method", ylim=(0, None))
    counts.legend(frameon=False, loc="lower right")
    return save(figure, path, dpi=130)


def _spread(ax: Axes, x: Sequence[int] | Tensor, values: Tensor) -> None:
    """Median and range over the noise seeds."""
    ax.fill_between(x, values.min(1).values, values.max(1).values, color="0.82", label="all seeds")
    ax.plot(x, values.quantile(0.5, 1), color=BLUE, label="median")


def flow_picture(observers: Sequence[Point], systems: Sequence[Point], rings: Sequence[Point], path: Path) -> Path:
    """Observers (and a flow itself) on the left, the ring over its forcing on the right: iterations and exponents."""
    figure, (flows, forcing) = _panels(1, 2)
    length = observers[0].length
    for points, colour, name in (observers, BLUE, "observer"), (systems, RED, "the chaotic flow itself"):
        if points:
            bars = flows.barh([_name(p) for p in points], [p.iterations for p in points], color=colour, label=name)
            flows.bar_label(bars, padding=3, fontsize=8)
    flows.set(xscale="log", xlabel="iterations", xlim=(0.8, length), title=f"flows, T = {length:,} (exponent per step)")
    flows.tick_params(axis="y", labelsize=8)
    flows.legend(frameon=False, loc="upper right", fontsize=8)
    flows.invert_yaxis()
    forces = [float(point.label) for point in rings]
    forcing.plot(forces, [point.iterations for point in rings], "o-", color=BLUE)
    forcing.set(xlabel="forcing F", title=f"Lorenz-96, T = {rings[0].length:,}")
    forcing.set_ylabel("iterations", color=BLUE)
    other = forcing.twinx()
    other.plot(forces, [point.exponent for point in rings], "s--", color=RED, markersize=4)
    other.axhline(0, color=RED, linestyle=":", linewidth=1)
    other.spines["top"].set_visible(False)
    other.set_ylabel("exponent, nats per step", color=RED)
    return save(figure, path, dpi=130)


def _name(point: Point) -> str:
    return f"{point.label} ({point.exponent:+.2g})"
