"""A Hamiltonian neural ODE: a network gives the energy, and its gradient the motion."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Hamiltonian(nn.Module):
    """`dq/dt = dH/dp`, `dp/dt = -dH/dq` (Greydanus, Dzamba, Yosinski, NeurIPS 2019).

    Args:
        width: of the hidden layers.
        depth: how many of them.
    """

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        sizes = [8, *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Softplus()]
        self.energy = nn.Sequential(*layers, nn.Linear(width, 1)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """The slope of states `(..., 8)`: four positions, four momenta."""
        slope = torch.func.grad(lambda y: self.energy(y).sum())(y)
        return torch.cat([slope[..., 4:], -slope[..., :4]], -1)
