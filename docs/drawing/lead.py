"""The picture of the home page: every time step at once, and when that fails. Its systems are those of Play."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor

import lds_iter as li
from docs.drawing import style
from recipes.canvas import SKY

WIDTH, LENGTH = 16, 400
STAGES = (0, 1, 2, 4)
COORDINATE = 6


def normals(seed: int) -> Iterator[float]:
    """The numbers of `Play.normals` in docs/javascripts/play/algebra.js: mulberry32, then Box and Muller."""
    word, a = 0xFFFFFFFF, seed & 0xFFFFFFFF

    def uniform() -> float:
        nonlocal a
        a = (a + 0x6D2B79F5) & word
        t = (a ^ (a >> 15)) * (1 | a) & word
        t = ((t + ((t ^ (t >> 7)) * (61 | t) & word)) & word) ^ t
        return (t ^ (t >> 14)) / 4294967296

    while True:
        radius, angle = (
            math.sqrt(-2 * math.log(1 - uniform())),
            2 * math.pi * uniform(),
        )
        yield radius * math.cos(angle)
        yield radius * math.sin(angle)


def network(
    gain: float, seed: int
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """`s' = gain W tanh(s) + u`, with slow waves as inputs."""
    normal, wave = normals(seed), normals(seed + 99)
    numbers = [next(normal) / math.sqrt(WIDTH) for _ in range(WIDTH * WIDTH)]
    weight = gain * torch.tensor(numbers, dtype=torch.float64).view(
        WIDTH, WIDTH
    )
    waves = [
        (abs(next(wave)) * 0.03 + 0.01, 6 * next(wave), 0.5 * next(wave))
        for _ in range(WIDTH)
    ]
    speed, phase, height = torch.tensor(waves, dtype=torch.float64).unbind(-1)
    inputs = height * torch.sin(
        speed * torch.arange(LENGTH, dtype=torch.float64).unsqueeze(-1) + phase
    )
    return (
        lambda s, u: torch.tanh(s) @ weight.T + u,
        torch.zeros(WIDTH, dtype=torch.float64),
        inputs,
    )


def lead() -> Figure:
    """Four stages of one solve, and the residuals of two."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    stages(left, *network(0.6, 1))
    panels = right.subplots(1, 2, sharey=True)
    for ax, gain, words in zip(
        panels, (0.6, 2.5), ("forgets", "chaotic"), strict=True
    ):
        solution = li.solve(
            *network(gain, 1), rtol=1e-10, atol=1e-10, record=True
        )
        style.draw_map(ax, solution, 40, 1e-12)
        count = int(solution.iterations)
        ax.set_title(
            f"{words}: {f'{count} iterations' if count < LENGTH / 10 else 'no gain'}"
        )
        ax.set_xticks([0, 200, 400])
    panels[0].text(LENGTH / 2, 22, "solved", ha="center", fontsize=14)
    panels[0].set_ylabel("iteration")
    return figure


def stages(
    figure: Figure,
    f: Callable[[Tensor, Tensor], Tensor],
    s0: Tensor,
    inputs: Tensor,
) -> None:
    """The iterates in front of the trajectory, one above the other."""
    truth = li.sequential(f, s0, inputs)
    panels = figure.subplots(len(STAGES), 1, sharex=True, sharey=True)
    for ax, count in zip(panels, STAGES, strict=True):
        states = s0.expand_as(truth)
        if count:
            states = li.solve(
                f, s0, inputs, max_iters=count, rtol=0, atol=0, throw=False
            ).states
        ax.plot(
            truth[:, COORDINATE],
            color="#909090",
            linewidth=5,
            alpha=0.6,
            solid_capstyle="round",
        )
        ax.plot(states[:, COORDINATE], color=SKY, linewidth=2)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_ylabel(
            "guess" if not count else f"{count}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=13,
        )
    panels[0].set_title("a loop: 400 steps in a row; here: 4 iterations")
    panels[-1].set_xlabel("time step")
