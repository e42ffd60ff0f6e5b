"""The gradient of the last loss with respect to every learning rate of a training, by the implicit adjoint."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import lds_iter as li
from recipes.optimizer.training import Training


def last_loss(training: Training, x: Tensor, given: tuple[Tensor, ...], window: int | None = None) -> Tensor:
    """The loss of all examples after the training; differentiable in the learning rates `given[1]`.

    Args:
        training: the recurrence.
        x: the parameters to start from, `(P)`.
        given: its inputs.
        window: of the solve.
    """
    states = li.solve(training, training.start(x), given, window=window, rtol=1e-8, atol=1e-8).states
    return training.loss(training.parameters(states[-1]), training.data)


def tune_rates(
    training: Training, x: Tensor, given: tuple[Tensor, ...], times: int, window: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Improve the logarithms of all learning rates by Adam, so that they stay positive.

    Yields:
        The learning rates `(T)` after each improvement, and the loss before it, a number on the device.
    """
    rows, rate, t = given
    log_rate = rate.log().requires_grad_()
    adam = torch.optim.Adam([log_rate], 0.05)
    for _ in range(times):
        adam.zero_grad()
        loss = last_loss(training, x, (rows, log_rate.exp(), t), window)
        loss.backward()
        adam.step()
        yield log_rate.detach().exp(), loss.detach()
