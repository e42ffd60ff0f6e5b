"""The table on the terminal, the verdict under it, and the picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

import lds_iter as li
from lds_iter.diagnostics.pictures import convergence_map
from recipes.canvas import pyplot, save
from recipes.pretrained.evaluate import Row
from recipes.pretrained.networks import Network
from recipes.pretrained.wording import duration, span


def table(network: Network, rows: list[Row], sequential: float, max_iters: int) -> Table:
    """One network at one length: every method against `torch.nn.GRU`, which took `sequential` seconds."""
    view = Table(
        title=f"[bold]{network.title}[/bold]\n{network.about}",
        caption=f"at most {max_iters} iterations a solve; f/step: evaluations of f per time step (the module: 1)",
        title_justify="left",
        caption_justify="left",
    )
    view.add_column("method", no_wrap=True)
    for heading in ("iterations", "f/step", "time", "/ nn.GRU", "max error"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("result", no_wrap=True)
    view.add_row("torch.nn.GRU", "-", "1.0", duration(sequential), "1.00", "0", "", end_section=True)
    for row in rows:
        ok = row.result == li.Result.SUCCESS
        view.add_row(
            row.name,
            span(row.iterations),
            f"{row.evaluations:.1f}",
            duration(row.seconds),
            f"{row.seconds / sequential:.2f}",
            f"{row.error:.0e}" if row.error < 1e-2 else f"{row.error:.2g}",
            f"[green]{row.result.name}[/green]" if ok else f"[red]{row.result.name}[/red]",
        )
    return view


def verdict(network: Network, rows: list[Row], sequential: float) -> str:
    """What iterations over the whole sequence take here: the fastest method that converged against the module."""
    name, length = network.title.split(":")[0], len(network.x)
    solved = [row for row in rows if row.result == li.Result.SUCCESS]
    if not solved:
        return f"{name}, T = {length:,}: no method converged within its limit."
    best = min(solved, key=lambda row: row.seconds)
    ratio = best.seconds / sequential
    pays = f"{1 / ratio:.1f} times as fast as" if ratio < 1 else f"{ratio:.1f} times the time of"
    return f"{name}, T = {length:,}: by iterations, {pays} torch.nn.GRU ({best.name}, the fastest that converged)."


def picture(cases: list[tuple[Network, list[Row]]], path: Path) -> None:
    """Convergence maps, a line of panels per case and a panel per row, on common axes and colours."""
    from matplotlib.colors import LogNorm

    figure = pyplot().figure(figsize=(12, 3.6 * len(cases)), layout="constrained")
    lines = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    for line, (network, rows) in zip(lines, cases, strict=True):
        panels = line.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, row in zip(panels, rows, strict=True):
            convergence_map(row.solution, title=_panel_title(row), ax=axes)
            image = axes.images[0]
            if image.colorbar is not None:
                image.colorbar.remove()
            image.set_norm(LogNorm(1e-7, 1))
            axes.set(ylim=(_depth(rows), -0.5), facecolor="#80808030")
            axes.title.set_fontsize(10)
            axes.get_legend().remove()
            axes.label_outer()
        title = f"{network.title.split(',')[0]}, T = {len(network.x):,}"
        if network.gru.num_layers > 1:
            title += " (first layer, forward)"
        line.suptitle(f"{title}; white line: accepted up to here", x=0.01, ha="left", fontsize=11, fontweight="bold")
        line.colorbar(panels[0].images[0], ax=panels, label="residual", pad=0.01, aspect=14)
    save(figure, path, dpi=130)


def _panel_title(row: Row) -> str:
    count = int(row.solution.iterations)
    if row.solution.result == li.Result.SUCCESS:
        return f"{row.name}: {count} iterations"
    return f"{row.name}: not solved in {count} iterations"


def _depth(rows: list[Row]) -> float:
    """How many iterations to show: a quarter more than the slowest method that converged took."""
    solved = [int(row.solution.iterations) for row in rows if row.solution.result == li.Result.SUCCESS]
    return max(1.25 * max(solved) + 1 if solved else max(int(row.solution.iterations) for row in rows), 1) + 0.5
