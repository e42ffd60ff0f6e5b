"""Two bodies that attract each other, in the plane: the data of the paper's Hamiltonian neural ODE, simulated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import lds_iter as li

END = 10.0
"""Of the time span, from 0; unit masses and a unit constant of gravity."""


def gravity(t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """The slope of `(positions, velocities)` of two bodies, each `(x1, y1, x2, y2)`; `y`: `(..., 8)`."""
    apart = y[..., 2:4] - y[..., 0:2]
    pull = apart / apart.square().sum(-1, keepdim=True).pow(1.5)
    return torch.cat([y[..., 4:], pull, -pull], -1)


def two_bodies(count: int, points: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Nearly circular orbits around the common center.

    Returns:
        The times `(points)` and the states `(points, count, 8)`, float64.
    """
    chance = torch.Generator("cpu").manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, generator=chance, dtype=torch.float64, device="cpu")
    radius = 0.5 + torch.rand(count, generator=chance, dtype=torch.float64, device="cpu")
    speed = (0.25 / radius).sqrt() * (1 + 0.1 * torch.randn(count, generator=chance, dtype=torch.float64, device="cpu"))
    place = radius * torch.stack([angle.cos(), angle.sin()])
    turn = speed * torch.stack([-angle.sin(), angle.cos()])
    y0 = torch.cat([place, -place, turn, -turn]).T.contiguous()
    t = torch.linspace(0, END, points, dtype=torch.float64, device="cpu")
    return t, li.ode.odeint(gravity, y0, t, options={"substeps": max(1, 2000 // points)})
