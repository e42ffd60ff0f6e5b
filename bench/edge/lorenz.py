"""Lorenz-96, a chaotic circle of coupled numbers, stepped by Dormand and Prince's method of order five.

    d x_i / dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F         D = 5, F = 8, one step of 0.01 each

As in "Towards scalable and stable parallelization of nonlinear RNNs" (Gonzalez, Warrington, Smith, Linderman, NeurIPS
2024), figure 8; lindermanlab/elk, `experiments/elk_exps_figs_4_7_8/fig8.py`: ten starts, 1,000 steps apart on the
attractor, and a guess of zeros.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

WIDTH, FORCE, STEP = 5, 8.0, 0.01
BURN_IN, APART = 10_000, 1_000
"""Steps before the first start, and between two."""

STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""The tableau of Dormand and Prince (1980); the last line is the solution of order five."""


def velocity(x: Tensor) -> Tensor:
    """`dx/dt` of states `(..., 5)`."""
    return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + FORCE


def lorenz96(s: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """One step of 0.01 of all states `(n, *batch, 5)`; the inputs only say how many."""
    slopes, x = [velocity(s)], s
    for weights in STAGES:
        x = s + STEP * sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros_like(s))
        slopes.append(velocity(x))
    return x


@cache
def starts(count: int) -> Tensor:
    """So many states on the attractor, 1,000 steps apart, `(count, 5)`, float64.

    Stepped number by number: a step of five numbers costs Python a tenth of what it costs torch.
    """
    x, found = [FORCE + 0.01, *[FORCE] * (WIDTH - 1)], []
    for step in range(BURN_IN + APART * (count - 1) + 1):
        if step >= BURN_IN and (step - BURN_IN) % APART == 0:
            found.append(x)
        x = _step(x)
    return torch.tensor(found, dtype=torch.float64)


def _step(s: list[float]) -> list[float]:
    """`lorenz96` for one state."""
    slopes, x = [_velocity(s)], s
    for weights in STAGES:
        x = [
            number + STEP * sum(w * k for w, k in zip(weights, column, strict=True))
            for number, *column in zip(s, *slopes, strict=True)
        ]
        slopes.append(_velocity(x))
    return x


def _velocity(x: list[float]) -> list[float]:
    return [(x[(i + 1) % WIDTH] - x[i - 2]) * x[i - 1] - x[i] + FORCE for i in range(WIDTH)]
