"""A cart with a pole, one step of a simulator at a time; open loop, under given forces, and closed, under feedback."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CART, POLE, HALF_LENGTH, GRAVITY = 1.0, 0.1, 0.5, 9.81
"""Masses in kg, half the length of the pole in m, m/s^2; those of Barto, Sutton and Anderson (1983)."""

STRONGEST = 10.0
"""The largest force on the cart, N."""


def step(s: Tensor, force: Tensor, dt: float) -> Tensor:
    """A step of semi-implicit Euler, the rule of most physics engines.

    Args:
        s: place and angle (0 is upright), and their speeds, `(..., 4)`.
        force: on the cart, N, `(...)`.
        dt: seconds.
    """
    place, angle, speed, turn = s.unbind(-1)
    sin, cos = angle.sin(), angle.cos()
    pull = (force + POLE * HALF_LENGTH * turn.square() * sin) / (CART + POLE)
    bend = (GRAVITY * sin - cos * pull) / (HALF_LENGTH * (4 / 3 - POLE * cos.square() / (CART + POLE)))
    speed = speed + dt * (pull - POLE * HALF_LENGTH * bend * cos / (CART + POLE))
    turn = turn + dt * bend
    return torch.stack([place + dt * speed, angle + dt * turn, speed, turn], -1)


@dataclass(frozen=True)
class OpenLoop:
    """`f(s, w)`: the force is `STRONGEST tanh(w)`, `w` of shape `(n, *batch)`.

    Attributes:
        dt: seconds.
    """

    dt: float

    def __call__(self, s: Tensor, w: Tensor) -> Tensor:
        return step(s, STRONGEST * torch.tanh(w), self.dt)


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """`f(s, push)`: the force is `STRONGEST tanh(-gains . s)`, and pushes come on top.

    Attributes:
        gains: of place, angle and their speeds, `(4)`.
        dt: seconds.
    """

    gains: Tensor
    dt: float

    def __call__(self, s: Tensor, push: Tensor) -> Tensor:
        return step(s, self.force(s) + push, self.dt)

    def force(self, s: Tensor) -> Tensor:
        """What the controller asks for in states `(..., 4)`."""
        return STRONGEST * torch.tanh(-(s * self.gains).sum(-1))
