"""The tables on the terminal and the picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from recipes.canvas import pyplot, save
from recipes.recurrent_depth.compare import TOLERANCE, Measured, Way


def depth_table(rows: list[Measured]) -> Table:
    """Every network, with the iterations of every method."""
    names = list(rows[0].maps)
    view = Table(
        title="[bold]Depth in parallel[/bold]: iterations until the last state is right",
        caption=f"to a relative error of {TOLERANCE:g}; contraction: growth of a small change per layer; "
        "early exit: the layer by which the loop is as close to its own end",
        title_justify="left",
        caption_justify="left",
    )
    view.add_column("network", no_wrap=True)
    for heading in ("layers", "contraction", "early exit", *names):
        view.add_column(heading, justify="right")
    for row in rows:
        counts = ["-" if row.maps[name].to_last is None else str(row.maps[name].to_last) for name in names]
        view.add_row(row.title, str(row.depth), f"{row.contraction:.2f}", str(row.early_exit), *counts)
    return view


def generation_table(title: str, rows: list[Way]) -> Table:
    """Ways to generate: steps one after the other, work, time, and whether the tokens are the same."""
    view = Table(title=f"[bold]{title}[/bold]", title_justify="left")
    view.add_column("way", no_wrap=True)
    for heading in ("steps", "all calls", "fewer by", "work", "tokens/s", "same tokens"):
        view.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        count = len(row.tokens)
        calls, speed = "" if row.calls is None else str(row.calls), f"{count / row.seconds:.0f}"
        figures = calls, f"{row.saved:.1f}", f"{row.work:.1f}", speed, f"{row.agree}/{count}"
        view.add_row(row.name, str(row.steps), *figures)
    return view


def picture(rows: list[Measured], path: Path) -> None:
    """Relative error over depth and iteration: a line of panels per network, a panel per method."""
    from matplotlib.colors import LogNorm

    figure = pyplot().figure(figsize=(13, 2.9 * len(rows)), layout="constrained")
    lines = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for line, row in zip(lines, rows, strict=True):
        panels = line.subplots(1, len(row.maps), sharey=True, squeeze=False)[0]
        for axes, (name, measured) in zip(panels, row.maps.items(), strict=True):
            axes.imshow(
                measured.errors.clamp(1e-6, 10).cpu().numpy(),
                aspect="auto",
                interpolation="nearest",
                norm=LogNorm(1e-6, 10),
                cmap="magma",
                extent=(0.5, row.depth + 0.5, len(measured.errors) - 0.5, -0.5),
            )
            axes.set(ylim=(row.depth + 0.5, -0.5), facecolor="#80808030", xlabel="layer")
            axes.set_title(f"{name}: {'not' if measured.to_last is None else measured.to_last} to 1e-3", fontsize=9)
        panels[0].set_ylabel("iteration")
        panels[0].yaxis.get_major_locator().set_params(integer=True)
        title = f"{row.title}, {row.depth} layers; a layer multiplies a small change by {row.contraction:.2f}"
        line.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        line.colorbar(panels[0].images[0], ax=panels, label="relative error", pad=0.01, aspect=14)
    save(figure, path, dpi=110)
