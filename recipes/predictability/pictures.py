"""The pictures: iterations against the exponent, over T, and over the iterations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from lds_iter.diagnostics import mu_bounds
from recipes.predictability.measure import Langevin, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#3b4cc0", "#d1495b", "#888888"


def save(figure: Figure, path: Path) -> Path:
    """Write a picture and close it."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    return path


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(4 * count, 3.4), layout="constrained", squeeze=False)
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def network_picture(points: Sequence[Point], path: Path) -> Path:
    """Like the paper's figures 2 and 4: theory and counts over exponent and T, the threshold, and the exponents."""
    figure, (theory, experiment, threshold, spectrum) = _panels(4)
    length = points[0].counts.shape[0]
    _theory(theory, points, length)
    lengths = torch.linspace(length / 40, length, 40).round().long()
    image = experiment.scatter(
        [point.exponent for point in points for _ in lengths],
        lengths.repeat(len(points)),
        c=torch.cat([point.counts[lengths - 1] / lengths for point in points]),
        cmap="coolwarm",
        vmin=0,
        vmax=1,
        s=14,
        marker="s",
    )
    figure.colorbar(image, ax=experiment, label="iterations / T")
    experiment.set(xlabel="exponent, nats per step", ylabel="T", title="measured")
    threshold.scatter([point.exponent for point in points], [point.iterations for point in points], s=12, color=BLUE)
    threshold.set(xlabel="exponent, nats per step", ylabel="iterations", title=f"T = {length:,}", ylim=(0, None))
    for ax in theory, experiment, threshold:
        ax.axvline(0, color="k", linestyle=":", linewidth=1)
    gains = sorted({float(point.label) for point in points})
    groups = [[point.exponent for point in points if float(point.label) == gain] for gain in gains]
    spectrum.fill_between(gains, [min(group) for group in groups], [max(group) for group in groups], color="0.85")
    spectrum.plot(gains, [median(group) for group in groups], color=BLUE)
    spectrum.axhline(0, color="k", linestyle=":", linewidth=1)
    spectrum.set(xlabel="gain g", ylabel="exponent", title="median and range over seeds")
    return save(figure, path)


def _theory(ax: Axes, points: Sequence[Point], length: int) -> None:
    """`-log` of the lower bound of mu, over exponent and T."""
    exponents = [point.exponent for point in points]
    rates = torch.linspace(min(exponents), max(exponents), 200, dtype=torch.float64)
    lengths = torch.linspace(1, length, 100).round().long()
    lower = torch.stack([mu_bounds(rates, int(steps))[0] for steps in lengths])
    extent = (float(rates[0]), float(rates[-1]), 1, length)
    image = ax.imshow(-lower, extent=extent, aspect="auto", origin="lower", cmap="coolwarm")
    ax.figure.colorbar(image, ax=ax, label="$-\\log\\mu$, nats")
    ax.set(xlabel="exponent, nats per step", ylabel="T", title="theory: condition")


def langevin_picture(found: Langevin, path: Path) -> Path:
    """Like the paper's figure 7: the exponents and merits of the iterates, and how the count grows with T."""
    figure, (exponents, merits, counts) = _panels(3)
    for ax, values in (exponents, found.exponents), (merits, found.merits.clamp(min=1e-33)):
        steps = range(len(values))
        ax.fill_between(steps, values.min(1).values, values.max(1).values, color="0.85")
        ax.plot(steps, values.quantile(0.5, 1), color=BLUE)
        ax.set(xlabel="iteration")
    exponents.axhline(0, color="k", linestyle=":", linewidth=1)
    exponents.set(title="exponent of the iterate", ylabel="nats per step")
    merits.set(title="merit of the iterate", ylabel="$|r|^2 / 2T$", yscale="log")
    lengths = torch.arange(1, len(found.counts) + 1)
    counts.fill_between(lengths, found.counts.min(1).values, found.counts.max(1).values, color="0.85")
    counts.plot(lengths, found.counts.double().quantile(0.5, 1), color=BLUE)
    counts.set(title="iterations", xlabel="T", ylabel="Newton iterations", ylim=(0, None))
    return save(figure, path)


def flow_picture(observers: Sequence[Point], systems: Sequence[Point], rings: Sequence[Point], path: Path) -> Path:
    """Observers (and a flow itself) on the left, the ring over its forcing on the right: iterations and exponents."""
    figure, (flows, forcing) = _panels(2)
    points, colours = [*observers, *systems], [BLUE] * len(observers) + [RED] * len(systems)
    bars = flows.barh([point.label for point in points], [point.iterations for point in points], color=colours)
    flows.bar_label(bars, padding=3, fontsize=8)
    length = observers[0].counts.shape[0]
    flows.set(xscale="log", xlabel="iterations", title=f"flows, T = {length:,}", xlim=(0.8, length))
    flows.invert_yaxis()
    forces = [float(point.label) for point in rings]
    forcing.plot(forces, [point.iterations for point in rings], "o-", color=BLUE)
    forcing.set(xlabel="forcing F", ylabel="iterations", title=f"Lorenz-96, T = {rings[0].counts.shape[0]:,}")
    other = forcing.twinx()
    other.plot(forces, [point.exponent for point in rings], "s--", color=RED, markersize=4)
    other.axhline(0, color=GREY, linewidth=0.8)
    other.set_ylabel("exponent, nats per step", color=RED)
    return save(figure, path)
