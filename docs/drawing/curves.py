"""Curves: iterations and work over the window, and two forms of Newton's iteration in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

import lds_iter as li
from docs.drawing.maps import tanh_rnn
from recipes.canvas import AMBER, COLOURS, MARKERS, SKY


def window() -> Figure:
    """Iterations and evaluations over the length of the window, its lines labelled where they end."""
    length = 512
    lengths = [2**k for k in range(10)]
    torch.manual_seed(0)
    problem = tanh_rnn(8, length, 1.0, torch.float32)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
    for colour, marker, method in zip(
        COLOURS,
        MARKERS,
        (li.Newton(), li.QuasiNewton(), li.Jacobi()),
        strict=False,
    ):
        solutions = [
            li.solve(*problem, method, window=size) for size in lengths
        ]
        look = {"color": colour, "marker": marker, "markersize": 6}
        left.plot(
            lengths,
            [int(solution.iterations) for solution in solutions],
            **look,
        )
        work = [int(solution.evaluations) / length for solution in solutions]
        right.plot(lengths, work, **look)
        right.text(
            lengths[-1] * 1.4, work[-1], type(method).__name__, va="center"
        )
    left.set_title("iterations (the depth)")
    right.set_title("evaluations of each time step (the work)")
    right.set_xlim(None, 8000)
    for ax in (left, right):
        ax.set_xticks(lengths[::3])
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.yaxis.set_major_formatter("{x:.0f}")
        ax.set_xlabel(f"window (T = {length})")
        ax.grid(visible=True)
        ax.set_axisbelow(True)
    return figure


def newton_on_states(
    f: Callable[[Tensor, Tensor], Tensor],
    s0: Tensor,
    inputs: Tensor,
    iterations: int,
) -> Tensor:
    """The papers' form, `s_t = A_t s_{t-1} + b_t`, `b_t = value_t - A_t prev_t`: its last residual, `(T,)`.

    By the scan in a tree, as on a GPU; the one of a CPU goes step by step, and rounds like the loop.
    """
    states = s0.expand(len(inputs), -1).clone()
    for _ in range(iterations):
        prev = torch.cat([s0[None], states[:-1]])
        derivatives = li.FunctionDerivatives(f, prev, inputs)
        transition = li.Dense(derivatives.jacobian())
        states = derivatives.value - transition.mv(prev)
        li.reference_scan(transition, states, s0)
        states = torch.where(states.isfinite(), states, derivatives.value)
    return (
        (f(torch.cat([s0[None], states[:-1]]), inputs) - states).abs().amax(-1)
    )


def forms() -> Figure:
    """Newton on the states and on the update, in float32, on an expanding system, after T iterations each."""
    torch.manual_seed(0)
    length = 64
    rotation = 3 * torch.linalg.qr(torch.randn(4, 4))[0]
    inputs, s0 = torch.randn(length, 4) * 0.3, torch.zeros(4)

    def f(s: Tensor, u: Tensor) -> Tensor:
        return torch.sin(s @ rotation.T) + u

    solution = li.solve(f, s0, inputs, rtol=0, atol=0)
    assert float(solution.residual) == 0
    residual = newton_on_states(f, s0, inputs, length)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    times, zero = range(1, length + 1), 1e-9
    ax.semilogy(times, residual.clamp(min=zero), "s", color=AMBER, markersize=5)
    ax.semilogy(times, [zero] * length, "o", color=SKY, markersize=5)
    ax.axhline(10 * zero, color="#808080", linewidth=0.8)
    words = f"● scan on the update: exactly 0 after {int(solution.iterations)} iterations"
    ax.text(2, 1e3, "■ scan on the states, the papers' form", color=AMBER)
    ax.text(2, 30, words, color=SKY)
    ax.set_yticks([zero, 1e-6, 1e-3, 1, 1e3], ["0", "1e-6", "1e-3", "1", "1e3"])
    ax.set(
        title=f"residual after {length} iterations in float32",
        xlabel="time step",
        ylim=(zero / 5, 1e4),
    )
    return figure
