"""The scheme of the page "Compose your own scheme" beside every method of the library: `python -m bench.composed`.

A driven pendulum with friction (Baker, Gollub, "Chaotic dynamics", 1990), by semi-implicit Euler steps of 0.02. The
page shows the same code; a test compares them, and the counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li


def pendulum(s, u):
    """Angle and velocity, 0.02 later; `u`: the torque."""
    angle, velocity = s.unbind(-1)
    velocity = velocity + 0.02 * (-angle.sin() - 0.1 * velocity + u)
    return torch.stack([angle + 0.02 * velocity, velocity], -1)


@dataclass(frozen=True)
class TwoSteps(li.LDSApproximation):
    """Two Newton steps with one Jacobian: third order."""

    def init(self, guess):
        return None

    def update(self, lin, carry):
        a = li.Dense(lin.jacobian())
        d = lin.scan(a, lin.residual)
        there = lin.at(lin.prev + torch.cat([torch.zeros_like(d[:1]), d[:-1]]))
        left = torch.where(lin.open, there.value - lin.states - d, 0)
        return d + lin.scan(a, left), carry


BUILT_IN: list[li.LDSApproximation] = [
    li.Newton(),
    li.QuasiNewton(),
    li.BlockNewton(2),
    li.Picard(),
    li.Jacobi(),
    li.TrustRegion(li.Newton()),
    li.LevenbergMarquardt(1e3),
    li.LevenbergMarquardt(1e6),
    li.LevenbergMarquardt(1e6, form=li.Smoother()),
    li.Damped(li.Newton(), 0.001),
    li.Clipped(li.Newton(), 1.5),
    li.Chord(li.Newton(), 2),
    li.Then(li.Jacobi(), li.Newton(), 4),
    li.Then(li.Picard(), li.Newton(), 4),
    li.Switch(li.QuasiNewton(), li.Newton(), li.Below(0.1)),
    li.LowPrecision(li.Newton(), torch.float32),
]
"""Every kind of method of the library, tuned where there is something to tune."""


def problem(length: int) -> tuple[Any, Tensor, Tensor]:
    """`f`, `s0` and the torques of a number of steps."""
    time = 0.02 * torch.arange(length, dtype=torch.float64)
    return pendulum, torch.tensor([1.0, 0.0], dtype=torch.float64), 1.2 * torch.cos(0.66 * time)


def compared(length: int, repeats: int = 1) -> li.Comparison:
    """All methods from the repeated initial state, to residuals of 1e-10."""
    return li.compare(*problem(length), [*BUILT_IN, TwoSteps()], max_iters=150, repeats=repeats)


def main() -> None:
    """T = 1,000 and 3,000."""
    torch.set_num_threads(1)
    for length in 1_000, 3_000:
        print(f"T = {length:,}\n{compared(length, repeats=3)}\n")


if __name__ == "__main__":
    main()
