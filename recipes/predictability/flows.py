"""Nine chaotic flows and their observers: `s' = s + dt v(s)`, Euler's method, in float64.

The equations and parameters are the textbook ones that the dysts collection (Gilpin 2021) gathers. An observer runs a
copy of the flow that is told about the true trajectory `x`: some coordinates are replaced by those of `x` before each
step (Pecora, Carroll 1990), and all are pulled towards it along one measured direction, `c c^T (x - s)`. The flow is
chaotic; the observer, if it works, forgets how it started.

Which coordinates are replaced, `c`, the initial states and guesses are those of the program behind the paper's table,
`experiments/tab1.py` of lindermanlab/predictability_enables_parallelization, drawn from the very same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from bench.common.problems import Problem, Threefry
from recipes.devices import CPU

Velocity = Callable[[ModuleType, Sequence], Sequence]
"""`v(xp, (x, y, z))`, with sin and cos from `xp`: `math` for numbers, `torch` for tensors."""

SEED = 42
"""Of the paper's run: the measured direction and the guess."""


@dataclass(frozen=True)
class Flow:
    """A chaotic flow, and what of it the observer is told.

    Attributes:
        velocity: the right-hand side.
        start: the initial state.
        replaced: the coordinates that the observer takes from the true trajectory.
        stream: which random numbers perturb the observer's initial state.
    """

    velocity: Velocity
    start: tuple[float, float, float]
    replaced: tuple[int, ...]
    stream: int


def _rossler(_, s):
    x, y, z = s
    return -y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)


def _lorenz(_, s):
    x, y, z = s
    return 10 * (y - x), 28 * x - x * z - y, x * y - 8 / 3 * z


def _thomas(xp, s):
    x, y, z = s
    return -1.85 * x + 10 * xp.sin(y), -1.85 * y + 10 * xp.sin(z), -1.85 * z + 10 * xp.sin(x)


def _abc(xp, s):
    x, y, z = s
    a, b, c = 1.73205, 1.41421, 1.0
    return (
        a * xp.sin(z) + c * xp.cos(y),
        b * xp.sin(x) + a * xp.cos(z),
        c * xp.sin(y) + b * xp.cos(x),
    )


def _sprott_b(_, s):
    x, y, z = s
    return y * z, x - y, 1 - x * y


def _kawczynski_strizhak(_, s):
    x, y, z = s
    return 0.49 * y - 0.49 * x**3 + 3 * 2.1 * 0.49 * x, -2 * 2.1 * x - y - z - 0.4, 0.2 * (x - z)


def _vallis(_, s):
    x, y, z = s
    return 102 * y - 3 * x, -y + x * z, -z - x * y + 1


def _chua(_, s):
    x, y, z = s
    inner, outer = -1.142857, -0.71429
    diode = outer * x + 0.5 * (inner - outer) * (abs(x + 1) - abs(x - 1))
    return 15.6 * (y - x - diode), x - y + z, -28.0 * y


def _nose_hoover(_, s):
    x, y, z = s
    return y, -x + y * z, 1.5 - y * y


FLOWS = {
    "ABC": Flow(_abc, (-0.78450179, -0.62887672, -0.17620268), (0, 2), 3),
    "Chua": Flow(_chua, (1.1262351, -0.11386474, -0.78324421), (1,), 7),
    "Kawczynski-Strizhak": Flow(_kawczynski_strizhak, (-1.160501, 5.8636902, -1.2031947), (0, 1), 5),
    "Lorenz": Flow(_lorenz, (-9.7869288, -15.03852, 20.533978), (1,), 1),
    "Nose-Hoover": Flow(_nose_hoover, (-1.9758582, 0.24647527, 0.79024299), (0, 2), 8),
    "Rossler": Flow(_rossler, (6.5134412, 0.4772013, 0.34164294), (), 0),
    "SprottB": Flow(_sprott_b, (1.6878282, 1.4848132, -0.53706628), (1,), 4),
    "Thomas": Flow(_thomas, (2.199442, 2.3634225, 3.220197), (1,), 2),
    "Vallis El Nino": Flow(_vallis, (-6.99286331487343, 0.023254276622294345, -0.1658177563067799), (1,), 6),
}
"""In the order of the paper's table."""


@dataclass(frozen=True)
class Published:
    """A row of the paper's Table 1: T = 30,000 steps of 0.01.

    Attributes:
        flow: exponent of the flow, nats per unit of time, to two digits after the point, as all here.
        observer: exponent of its observer.
        flow_iterations: what Newton's method took for the flow.
        observer_iterations: and for its observer.
    """

    flow: float
    observer: float
    flow_iterations: int
    observer_iterations: int


PUBLISHED = {
    "ABC": Published(0.16, -0.08, 4243, 3),
    "Chua": Published(0.02, -1.37, 697, 14),
    "Kawczynski-Strizhak": Published(0.01, -3.08, 29396, 2),
    "Lorenz": Published(1.02, -6.28, 30000, 3),
    "Nose-Hoover": Published(0.02, -0.13, 29765, 3),
    "Rossler": Published(0.01, -0.07, 29288, 7),
    "SprottB": Published(0.20, -0.39, 29486, 2),
    "Thomas": Published(0.01, -3.07, 12747, 7),
    "Vallis El Nino": Published(0.58, -2.48, 30000, 3),
}
"""Gonzalez, Kozachkov, Zoltowski, Clarkson and Linderman 2025, arXiv 2508.16817, Table 1."""


def rollout(flow: Flow, length: int, dt: float) -> Tensor:
    """`x_0 .. x_T` of the flow itself, step by step in Python numbers, `(T + 1, 3)`."""
    s, states = flow.start, [flow.start]
    for _ in range(length):
        v = flow.velocity(math, s)
        s = (s[0] + dt * v[0], s[1] + dt * v[1], s[2] + dt * v[2])
        states.append(s)
    return torch.tensor(states, dtype=torch.float64, device="cpu")


def system(flow: Flow, length: int, dt: float, device: torch.device = CPU) -> Problem:
    """The chaotic flow; its inputs, zeros, only say how many steps."""

    def f(s: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
        return s + dt * torch.stack(torch.broadcast_tensors(*flow.velocity(torch, s.unbind(-1))), -1)

    start = torch.tensor(flow.start, dtype=torch.float64, device=device)
    return Problem(f, start, torch.zeros(length, 1, dtype=torch.float64, device=device))


def observer(flow: Flow, truth: Tensor, dt: float) -> Problem:
    """The observer of a true trajectory, from a perturbed start.

    Args:
        flow: which one.
        truth: `x_0 .. x_T` as `rollout` gives it, `(T + 1, 3)`, on the device of the problem.
        dt: the time step.
    """
    direction = Threefry.seeded(SEED).split(0).normal((3,), torch.float64).to(truth.device)
    told = torch.tensor([place in flow.replaced for place in range(3)], device=truth.device)

    def f(s: Tensor, x: Tensor) -> Tensor:
        s = torch.where(told, x, s)
        v = torch.stack(torch.broadcast_tensors(*flow.velocity(torch, s.unbind(-1))), -1)
        return s + dt * (v + ((x - s) @ direction).unsqueeze(-1) * direction)

    noise = Threefry.seeded(0).split(flow.stream).normal((3,), torch.float64).to(truth.device)
    return Problem(f, truth[0] + noise, truth[:-1])


def guess(length: int) -> Tensor:
    """What every solve starts from: independent N(0, 1) numbers, `(T, 3)`."""
    return Threefry.seeded(SEED).split(2).normal((length, 3), torch.float64)
