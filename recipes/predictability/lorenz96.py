"""The Lorenz-96 ring: `dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F`, chaotic from a forcing F of about 4 to 5."""

from __future__ import annotations

import torch
from torch import Tensor

import lds_iter as li
from bench.common.problems import Problem
from recipes.devices import CPU


def lorenz96(
    forcing: float, width: int, length: int, dt: float = 0.01, seed: int = 0, device: torch.device = CPU
) -> Problem:
    """Euler's method in float64, `s' = s + dt v(s)`, started on the attractor: after 20 units of time.

    Args:
        forcing: F; the same everywhere.
        width: places on the ring, 4 or more.
        length: T, time steps.
        dt: units of time a step.
        seed: of the perturbed start.
        device: of the problem; the start is found on the CPU, one step after the other.
    """

    def f(s: Tensor, u: Tensor) -> Tensor:
        return s + dt * ((s.roll(-1, -1) - s.roll(2, -1)) * s.roll(1, -1) - s + u)

    generator = torch.Generator("cpu").manual_seed(seed)
    start = forcing + 0.1 * torch.randn(width, generator=generator, dtype=torch.float64, device="cpu")
    spin = torch.full((round(20 / dt), 1), forcing, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        s0 = li.sequential(f, start, spin)[-1].to(device)
    return Problem(f, s0, torch.full((length, 1), forcing, dtype=torch.float64, device=device))
