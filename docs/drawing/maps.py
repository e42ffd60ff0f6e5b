"""Residuals over time and iteration: four methods on one network, and Newton on a stable and a chaotic one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

import lds_iter as li
from docs.drawing import style

Problem = tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]


def tanh_rnn(
    width: int, length: int, gain: float, dtype: torch.dtype
) -> Problem:
    """`s' = W tanh(s) + u`: contracting for a small gain of `W`, chaotic from a little above 1."""
    weight = torch.randn(width, width, dtype=torch.float64) * gain / width**0.5
    inputs = torch.randn(length, width, dtype=torch.float64) * 0.3
    weight, inputs = weight.to(dtype), inputs.to(dtype)
    return (
        lambda s, u: torch.tanh(s) @ weight.T + u,
        torch.zeros(width, dtype=dtype),
        inputs,
    )


def convergence() -> Figure:
    """Four methods on a GRU of 16 units whose recurrent weights are doubled."""
    torch.manual_seed(1)
    length, rows = 1000, 40
    module = torch.nn.GRU(4, 16)
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    gru = li.nn.GRURecurrence.from_module(module)
    inputs = gru.inputs(torch.randn(length, 4))
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    for ax, method in zip(
        panels,
        (li.Newton(), li.QuasiNewton(), li.Jacobi(), li.Picard()),
        strict=True,
    ):
        solution = li.solve(gru, torch.zeros(16), inputs, method, record=True)
        image = style.draw_map(ax, solution, rows, 1e-7)
        count = int(solution.iterations)
        ax.set_title(f"{type(method).__name__}: {count}")
        if count < rows:
            ax.text(
                length / 2,
                count + (rows - count) / 2 + 1,
                "solved",
                ha="center",
                va="center",
            )
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.01)
    return figure


def chaos() -> Figure:
    """Newton on a stable and on a chaotic network."""
    length, rows = 400, 45
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, gain, kind in zip(
        panels, (0.8, 1.6), ("stable", "chaotic"), strict=True
    ):
        torch.manual_seed(0)
        solution = li.solve(
            *tanh_rnn(48, length, gain, torch.float64), record=True
        )
        image = style.draw_map(ax, solution, rows, 1e-12)
        ax.set_title(
            f"{kind} (gain {gain}): {int(solution.iterations)} iterations"
        )
        if int(solution.iterations) < rows:
            ax.text(length / 2, rows / 2, "solved", ha="center", va="center")
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.02)
    return figure
