"""Equations that the tests of `lds_iter.ode` share: `func(t, y)`, an initial state, a span; float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logistic(t: Tensor, y: Tensor) -> Tensor:
    """Exact solution: `logistic_at`."""
    return y * (1 - y)


def logistic_at(t: Tensor, start: float = 0.1) -> Tensor:
    return (1 / (1 + (1 / start - 1) * torch.exp(-t))).unsqueeze(-1)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


def cart_pole(t: Tensor, y: Tensor) -> Tensor:
    """A pole of mass 1 and length 0.5 that hangs from a cart of mass 10."""
    angle, speed, turn = y[..., 1], y[..., 2], y[..., 3]
    sin, cos = torch.sin(angle), torch.cos(angle)
    mass = 10 + sin**2
    push = sin * (0.5 * turn**2 + 9.81 * cos) / mass
    return torch.stack([speed, turn, push, (-0.5 * turn**2 * cos * sin - 11 * 9.81 * sin) / (0.5 * mass)], -1)


def robertson(t: Tensor, y: Tensor) -> Tensor:
    """Stiff: rates of 0.04, 1e4 and 3e7."""
    a, b, c = y.unbind(-1)
    made, lost = 0.04 * a - 1e4 * b * c, 3e7 * b**2
    return torch.stack([-made, made - lost, lost], -1)


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def real(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def times(end: float, steps: int) -> Tensor:
    return torch.linspace(0, end, steps + 1, dtype=torch.float64)


LOGISTIC = (logistic, real(0.1), 10.0)
VAN_DER_POL = (van_der_pol, real(0, 1), 10.0)
CART_POLE = (cart_pole, real(0, math.pi / 2, 0, 0), 4.0)
