"""Damping and size of the update of a trust region, beside the residuals of Newton and of the trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import lds_iter as li
from bench.edge.problems import sine
from docs.drawing import style
from recipes.canvas import AMBER, SKY


@dataclass(frozen=True)
class Watched(li.LDSApproximation):
    """A trust region that notes the damping it uses and the size of the update that comes of it, for one sequence."""

    trust: li.TrustRegion
    k: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)

    def init(self, guess: Tensor) -> Any:
        return self.trust.init(guess)

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        free = replace(self.trust, step=math.inf, reject=1e300)
        d, _ = free.update(replace(lin, residual=lin.residual.clone()), carry)
        self.k.append(float(carry.k))
        self.size.append(float(d.abs().max() / extent(lin).max()))
        return self.trust.update(lin, carry)


def extent(lin: li.Linearization) -> Tensor:
    """The largest range of a coordinate over time, or the largest residual if that is more."""
    ranges = lin.value.amax(0) - lin.value.amin(0)
    return torch.maximum(ranges, lin.residual.abs().amax(0)).amax(
        -1, keepdim=True
    )


def trust_region() -> Figure:
    """Damping and size of the update over the iterations, and the convergence maps of Newton and of a trust region."""
    rows, problem = 60, sine(10_000, 1)
    watched = Watched(li.TrustRegion(li.Newton()))
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, *panels = figure.subplots(1, 3)
    for ax, name, method in zip(
        panels, ("Newton", "TrustRegion"), (li.Newton(), watched), strict=True
    ):
        solution = li.solve(
            problem.f,
            problem.s0,
            problem.inputs,
            method,
            rtol=0,
            atol=problem.atol,
            record=True,
            max_iters=rows,
            throw=False,
        )
        image = style.draw_map(ax, solution, rows, 1e-10)
        ended = (
            str(int(solution.iterations))
            if solution.converged
            else f"not in {rows}"
        )
        ax.set_title(f"{name}: {ended}")
    left.semilogy(
        [max(k, 1e-12) for k in watched.k],
        color=SKY,
        marker="o",
        markersize=3,
        label="damping k",
    )
    left.semilogy(
        [max(m, 1e-12) for m in watched.size],
        color=AMBER,
        marker="s",
        markersize=3,
        label="largest update",
    )
    for length, name in (1 / 6, "step"), (1, "relax"), (8, "reject"):
        left.axhline(length, color="#999999", linewidth=0.8, linestyle=":")
        left.text(
            1,
            length,
            name,
            transform=left.get_yaxis_transform(),
            fontsize=9,
            va="center",
        )
    left.set(
        title="what the rule does",
        xlabel="iteration",
        ylabel="no unit",
        ylim=(1e-12, None),
    )
    left.legend(loc="lower left", fontsize=9)
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.01)
    return figure
