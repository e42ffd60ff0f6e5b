"""Pictures of a solution; needs the `plot` extra. matplotlib is imported when a picture is made, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lds_iter.diagnostics.comparing import Comparison
from lds_iter.diagnostics.reporting import Report
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.spelling import spelled
from lds_iter.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@spelled
def convergence_map(
    solution: Solution, sequence: int = 0, *, title: str | None = None, ax: Axes | None = None
) -> Figure:
    """Residual over iteration and time. The slope of its front is the speed-up; one step per iteration is failure.

    Args:
        solution: of `solve(..., record=True)`.
        sequence: which sequence of a batch, counted over the flattened batch dimensions.
        title: above the picture.
        ax: where to draw; a new figure when None.

    Raises:
        TypeError, ValueError: for something else than a solution, one without a history, or a sequence that the batch
            does not have.
    """
    check_instance("solution", solution, Solution, "li.solve(..., record=True)")
    if solution.history is None:
        raise ValueError("The solution has no history. Type `li.solve(..., record=True)`.")
    which = _checked(sequence, solution.result.numel())
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    residuals, accepted = solution.history.residual_map, solution.history.accepted
    rows = residuals.reshape(*residuals.shape[:2], -1)[:, :, which]
    front = accepted.reshape(len(accepted), -1)[:, which]
    figure, axes = _axes(ax)
    floor = torch.finfo(solution.states.dtype).eps
    shown = rows.clamp(min=floor)
    image = axes.imshow(
        _coarsened(shown).numpy(),
        aspect="auto",
        origin="upper",
        interpolation="nearest",
        norm=LogNorm(vmin=floor, vmax=max(1.0, float(shown.nan_to_num(0.0, posinf=0.0).max()))),
        cmap="magma",
        extent=(0, rows.shape[1], rows.shape[0] - 0.5, -0.5),
    )
    axes.step(front.numpy(), range(len(front)), where="post", color="white", linewidth=1, label="accepted up to here")
    axes.set(xlabel="time step", ylabel="iteration", title=title or "")
    axes.legend(loc="lower right", fontsize="small")
    figure.colorbar(image, ax=axes, label="residual")
    plt.close(figure)
    return figure


@spelled
def comparison_picture(comparison: Comparison, sequence: int = 0, iteration: int | None = None) -> Figure:
    """Three panels: the residual over iterations; over time at one iteration; the error against the loop over time.

    Args:
        comparison: of `li.compare`.
        sequence: which sequence of a batch, counted over the flattened batch dimensions.
        iteration: of the middle panel; when None half the fewest iterations that a method took.

    Raises:
        ValueError: for a sequence that the batch does not have.
    """
    sequence = _checked(sequence, comparison.truth[0, ..., 0].numel())
    import matplotlib.pyplot as plt

    if iteration is None:
        iteration = min(int(method.solution.iterations.flatten()[sequence]) for method in comparison.methods) // 2
    floor = torch.finfo(comparison.truth.dtype).eps
    figure, (over, within, errors) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for method in comparison.methods:
        history = method.solution.history
        assert history is not None
        residual = history.residual.reshape(len(history.residual), -1)[:, sequence]
        row = min(iteration, len(residual) - 1)
        along = history.residual_map.reshape(*history.residual_map.shape[:2], -1)[row, :, sequence]
        error = method.errors.reshape(len(method.errors), -1)[:, sequence].cpu()
        over.semilogy(residual.clamp(min=floor).tolist(), label=method.name)
        for axes, rows in (within, along), (errors, error):
            axes.semilogy(_coarsened(rows.unsqueeze(0))[0].clamp(min=floor).tolist())
    over.set(xlabel="iteration", ylabel="largest residual")
    within.set(xlabel="time step", title=f"residual at iteration {iteration}")
    errors.set(xlabel="time step", title="error against the loop")
    over.legend(fontsize="small")
    plt.close(figure)
    return figure


@spelled
def report_picture(report: Report, sequence: int = 0) -> Figure:
    """The convergence map, where the solve was recorded, over how a small difference grows or dies along the states.

    Args:
        report: of `li.diagnostics.report`.
        sequence: which sequence of a batch, counted over the flattened batch dimensions.

    Raises:
        ValueError: for a sequence that the batch does not have.
    """
    sequence = _checked(sequence, report.lyapunov.largest.numel())
    import matplotlib.pyplot as plt

    recorded = report.solution.history is not None
    figure, axes = plt.subplots(1 + recorded, 1, figsize=(8, 6 if recorded else 3), layout="constrained", squeeze=False)
    if recorded:
        convergence_map(report.solution, sequence, title=report.verdict, ax=axes[0, 0])
    blocks = report.lyapunov.blocks[..., 0].flatten(1) if report.lyapunov.blocks.ndim > 2 else report.lyapunov.blocks
    rates = blocks[:, sequence].cpu()
    steps = report.lyapunov.steps / len(rates)
    growth = torch.cat([rates.new_zeros(1), (rates * steps).cumsum(0)])
    below = axes[-1, 0]
    below.axhline(0, color="0.6", linewidth=0.8)
    below.plot([steps * index for index in range(len(growth))], growth.tolist(), color="#3b4cc0")
    largest = float(report.lyapunov.largest.flatten()[sequence])
    below.set(xlim=(0, report.lyapunov.steps), xlabel="time step", ylabel="log growth")
    below.set(title=f"a small difference: {largest:+.3g} nats per step")
    plt.close(figure)
    return figure


def _checked(sequence: Any, count: int) -> int:
    """Which sequence of a batch of `count`."""
    index = None if isinstance(sequence, bool | torch.Tensor) else getattr(sequence, "__index__", lambda: None)()
    if index is None or not 0 <= index < count:
        raise ValueError(
            f"`sequence` must be a whole number from 0 to {count - 1}, counted over the flattened batch, got "
            f"{sequence!r}."
        )
    return index


def _axes(ax: Axes | None) -> tuple[Figure, Axes]:
    if ax is not None:
        return ax.get_figure(root=True), ax  # pyright: ignore[reportReturnType]
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(8, 3.6), layout="constrained")


def _coarsened(rows: torch.Tensor, columns: int = 2000) -> torch.Tensor:
    """The largest residual of each stretch of time, so that a picture of a million steps hides no peak."""
    if rows.shape[1] <= columns:
        return rows
    width = -(-rows.shape[1] // columns)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % width), value=float("nan"))
    stretches = padded.unflatten(1, (-1, width))
    return torch.where(stretches.isnan().all(-1), torch.nan, stretches.nan_to_num(-1.0, posinf=torch.inf).amax(-1))
