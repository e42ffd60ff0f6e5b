"""Make the pictures of the documentation: `python -m docs.make_pictures` writes `docs/pictures/*.png`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

import lds_iter as li
from bench.edge.problems import sine

Recurrence = Callable[[Tensor, Tensor], Tensor]
PICTURES = Path(__file__).parent / "pictures"
COLOURS = ("#3b4cc0", "#d1495b", "#2a9d8f", "#e9a13b")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.dpi": 160,
}


def save(figure: Figure, name: str) -> None:
    """Write a figure beside the others."""
    figure.savefig(PICTURES / f"{name}.png", facecolor="white", metadata={"Software": None})
    print(PICTURES / f"{name}.png")


def tanh_rnn(width: int, length: int, gain: float, dtype: torch.dtype) -> tuple[Recurrence, Tensor, Tensor]:
    """`s' = W tanh(s) + u`: contracting for a small gain of `W`, chaotic from a little above 1."""
    weight = torch.randn(width, width, dtype=torch.float64) * gain / width**0.5
    inputs = torch.randn(length, width, dtype=torch.float64) * 0.3
    weight, inputs = weight.to(dtype), inputs.to(dtype)
    return lambda s, u: torch.tanh(s) @ weight.T + u, torch.zeros(width, dtype=dtype), inputs


def draw_map(ax: Axes, solution: li.Solution, rows: int, floor: float) -> AxesImage:
    """The residual over iteration and time, all maps on one scale; light where everything is solved already."""
    assert solution.history is not None
    shown = min(rows, int(solution.iterations)) + 1
    residual = solution.history.residual_map[:shown].clamp(floor, 1)
    front = solution.history.accepted[:shown]
    image = ax.imshow(
        residual.numpy(),
        aspect="auto",
        interpolation="nearest",
        norm=LogNorm(vmin=floor, vmax=1),
        cmap="magma",
        extent=(0, residual.shape[1], residual.shape[0] - 0.5, -0.5),
    )
    ax.step(front, range(len(front)), where="mid", color="white", linewidth=1.2)
    ax.set_facecolor("#f1eef5")
    ax.set_ylim(rows + 0.5, -0.5)
    ax.set_xlabel("time step")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return image


def convergence() -> None:
    """The lead picture: four methods on one GRU."""
    torch.manual_seed(1)
    length, rows = 1000, 40
    module = torch.nn.GRU(4, 16)
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    gru = li.nn.GRURecurrence.from_module(module)
    inputs = gru.inputs(torch.randn(length, 4))
    methods = (li.Newton(), li.QuasiNewton(), li.Jacobi(), li.Picard())
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    for ax, method in zip(panels, methods, strict=True):
        solution = li.solve(gru, torch.zeros(16), inputs, method, record=True)
        image = draw_map(ax, solution, rows, 1e-7)
        ax.set_title(type(method).__name__)
        count = int(solution.iterations)
        if count < rows:
            ax.annotate(
                f"solved after {count} iterations",
                (length / 2, count + (rows - count) / 2 + 1),
                ha="center",
                va="center",
                color="#555555",
            )
        else:
            ax.annotate(
                f"needs {count} iterations:\none step each, no gain",
                (length / 2, rows / 2),
                ha="center",
                va="center",
                color="#555555",
            )
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.01)
    save(figure, "convergence")


def chaos() -> None:
    """Newton on a stable and on a chaotic network."""
    length, rows = 400, 60
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, gain, kind in zip(panels, (0.8, 1.6), ("stable", "chaotic"), strict=True):
        torch.manual_seed(0)
        solution = li.solve(*tanh_rnn(48, length, gain, torch.float64), record=True)
        image = draw_map(ax, solution, rows, 1e-12)
        ax.set_title(f"{kind} (gain {gain}): {int(solution.iterations)} Newton iterations")
        if int(solution.iterations) < rows:
            ax.annotate("solved", (length / 2, rows / 2), ha="center", va="center", color="#555555")
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.02)
    save(figure, "chaos")


def window() -> None:
    """Iterations and evaluations over the length of the window."""
    length = 512
    lengths = [2**k for k in range(10)]
    torch.manual_seed(0)
    problem = tanh_rnn(8, length, 1.0, torch.float32)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, method in zip(COLOURS, (li.Newton(), li.QuasiNewton(), li.Jacobi()), strict=False):
        solutions = [li.solve(*problem, method, window=size) for size in lengths]
        style = {"color": colour, "marker": "o", "markersize": 4, "label": type(method).__name__}
        left.plot(lengths, [int(solution.iterations) for solution in solutions], **style)
        right.plot(lengths, [int(solution.evaluations) / length for solution in solutions], **style)
    left.set_title("iterations (the depth)")
    right.set_title("evaluations of each time step (the work)")
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.yaxis.set_major_formatter("{x:.0f}")
        ax.set_xlabel(f"window, of T = {length}")
        ax.grid(visible=True)
        ax.set_axisbelow(True)
    left.legend()
    save(figure, "window")


def newton_on_states(f: Recurrence, s0: Tensor, inputs: Tensor, iterations: int) -> Tensor:
    """The papers' form, `s_t = A_t s_{t-1} + b_t`, `b_t = value_t - A_t prev_t`: its residuals, `(iterates, T)`."""
    states, residuals = s0.expand(len(inputs), -1).clone(), []
    for _ in range(iterations + 1):
        prev = torch.cat([s0[None], states[:-1]])
        derivatives = li.FunctionDerivatives(f, prev, inputs)
        residuals.append((derivatives.value - states).abs().amax(-1))
        transition = li.Dense(derivatives.jacobian())
        states = li.linear_scan(transition, derivatives.value - transition.mv(prev), s0)
        states = torch.where(states.isfinite(), states, derivatives.value)
    return torch.stack(residuals)


def forms() -> None:
    """Newton on the states and on the update, in float32, on an expanding system."""
    torch.manual_seed(0)
    length, zero = 64, 1e-9
    rotation = 3 * torch.linalg.qr(torch.randn(4, 4))[0]
    inputs, s0 = torch.randn(length, 4) * 0.3, torch.zeros(4)

    def f(s: Tensor, u: Tensor) -> Tensor:
        return torch.sin(s @ rotation.T) + u

    solution = li.solve(f, s0, inputs, rtol=0, atol=0, record=True)
    assert solution.history is not None
    count = int(solution.iterations)
    curves = {
        "scan on the states, the papers' form": newton_on_states(f, s0, inputs, length),
        "scan on the update, lds_iter": solution.history.residual_map,
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (label, residual) in zip(COLOURS[1::-1], curves.items(), strict=True):
        left.semilogy(residual.amax(-1).clamp(min=zero), color=colour, label=label)
        right.semilogy(range(1, length + 1), residual[-1].clamp(min=zero), ".", color=colour)
    left.plot([count], [zero], marker="v", color=COLOURS[0], markersize=7)
    left.annotate(f"exactly 0 after {count}", (count - 3, zero), ha="right", va="center", color=COLOURS[0])
    right.annotate("exactly 0 at every step", (2, 4 * zero), va="bottom", color=COLOURS[0])
    left.set(title="largest residual", xlabel="iteration", ylabel="residual", ylim=(zero / 100, None))
    right.set(title=f"residual after {length} iterations", xlabel="time step", ylim=(zero / 10, None))
    for ax in (left, right):
        ax.grid(visible=True)
        ax.set_axisbelow(True)
    left.legend(loc="center left", fontsize=9)
    save(figure, "forms")


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
    return torch.maximum(ranges, lin.residual.abs().amax(0)).amax(-1, keepdim=True)


def trust_region() -> None:
    """Damping and size of the update over the iterations, and the convergence maps of Newton and of a trust region."""
    rows, problem = 60, sine(10_000, 1)
    watched = Watched(li.TrustRegion(li.Newton()))
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, *panels = figure.subplots(1, 3)
    for ax, name, method in zip(panels, ("Newton", "TrustRegion"), (li.Newton(), watched), strict=True):
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
        image = draw_map(ax, solution, rows, 1e-10)
        ended = f"{int(solution.iterations)} iterations" if solution.converged else f"not solved after {rows}"
        ax.set_title(f"{name}: {ended}")
    left.semilogy([max(k, 1e-12) for k in watched.k], color=COLOURS[0], marker=".", label="damping k")
    left.semilogy([max(m, 1e-12) for m in watched.size], color=COLOURS[1], marker=".", label="largest update m")
    for length, name in (1 / 6, "step"), (1, "relax"), (8, "reject"):
        left.axhline(length, color="#999999", linewidth=0.8, linestyle=":")
        left.text(0, length, name, fontsize=8, color="#555555", va="bottom")
    left.set(title="what the rule does", xlabel="iteration", ylim=(1e-12, None))
    left.legend(loc="lower left", fontsize=9)
    panels[0].set_ylabel("iteration")
    figure.colorbar(image, ax=panels, label="residual", pad=0.01)
    save(figure, "trust-region")


def main() -> None:
    """All of them."""
    torch.set_num_threads(1)
    mpl.rcParams.update(STYLE)
    PICTURES.mkdir(exist_ok=True)
    convergence()
    chaos()
    window()
    forms()
    trust_region()


if __name__ == "__main__":
    main()
