"""Training on one long series, all time steps at once or one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li
from recipes.teacher_forcing.network import Forced, ShallowPLRNN

STRENGTHS = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Of the forcing, from which the weakest is taken that contracts."""

CONTRACTION = -0.02
"""Nats per step, at most, over every stretch of 100 steps: a forced network that forgets errors everywhere."""


def choose_strength(network: ShallowPLRNN, data: Tensor, prefix: int = 2000) -> float:
    """The weakest forcing under which the network contracts along the data's first steps.

    The exponent is measured along the data, where nothing has to be solved. Forcing by alpha makes every Jacobian
    `1 - alpha` times the network's, which adds `log(1 - alpha)` to all exponents.

    Args:
        network: as it is now.
        data: `(T, D)`.
        prefix: steps to measure on.
    """
    steps = min(prefix, len(data) - 1)
    free = li.diagnostics.lyapunov(
        Forced(network, 0.0), data[0], data[:-1], data[1:], prefix=steps, blocks=max(1, steps // 100)
    )
    largest = float(free.blocks.max())
    for alpha in STRENGTHS[:-1]:
        if largest + math.log1p(-alpha) <= CONTRACTION:
            return alpha
    return STRENGTHS[-1]


@dataclass(frozen=True)
class Step:
    """A step of the training.

    Attributes:
        loss: before it, a number on the device, so that nothing waits for it before it is read.
        alpha: the forcing.
        iterations: of the solve, likewise; 0 when sequential.
    """

    loss: Tensor
    alpha: float
    iterations: Tensor | int


def train(
    network: ShallowPLRNN, data: Tensor, steps: int, *, parallel: bool = True, rate: float = 5e-3, every: int = 25
) -> Iterator[Step]:
    """Adam on the mean square error of the forced predictions, its rate falling to a twentieth.

    Args:
        network: is trained, on its device.
        data: `(T + 1, D)`, on the same.
        steps: of Adam.
        parallel: all time steps at once; otherwise one after the other.
        rate: of Adam.
        every: so many steps the forcing is chosen again.
    """
    adam = torch.optim.Adam(network.parameters(), rate)
    fall = torch.optim.lr_scheduler.ExponentialLR(adam, 0.05 ** (1 / max(1, steps)))
    guess, alpha = data[1:], 1.0
    for number in range(steps):
        if number % every == 0:
            alpha = choose_strength(network, data)
        forced, count = Forced(network, alpha), 0
        adam.zero_grad()
        if parallel:
            solution = li.solve(forced, data[0], data[:-1], guess=guess, rtol=1e-8, atol=1e-8)
            states, count, guess = solution.states, solution.iterations, solution.states.detach()
        else:
            states = li.sequential(forced, data[0], data[:-1])
        loss = (states - data[1:]).square().mean()
        loss.backward()
        adam.step()
        fall.step()
        yield Step(loss.detach(), alpha, count)
