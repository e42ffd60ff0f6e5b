"""Choices of A for trainings of many parameters, from the curvature of the loss as Gauss and Newton take it.

For predictions z(x) of B examples and a criterion with Hessian L in z, the Hessian of the loss is about

    H = J^T L J / B,      J = dz/dx,  (B K, P),

where the curvature of z itself is left out, which weighs with the errors of the predictions. Its rank is B K, whatever
the number of parameters P. For logistic regression it is the Hessian.

A step of SGD has the Jacobian `1 - rate H`, which `li.LowRank` holds in `2 P B K` numbers. Momentum and Adam treat each
parameter by itself but for H; with the diagonal of H, blocks of two or three coordinates per parameter are left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from recipes.optimizer.problems import Task
from recipes.optimizer.training import Training


def curvature(task: Task, x: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """J and L / B of every row.

    Args:
        task: what is trained.
        x: parameters, `(n, P)`.
        batch: features and labels of the minibatches, `(n, B, F)` and `(n, B, K)`.

    Returns:
        J, `(n, B, K, P)`, and L / B, `(n, B, K, K)`.
    """
    slopes = torch.func.vmap(torch.func.jacrev(task.predict))(x, batch[0])
    scores = torch.func.vmap(task.predict)(x, batch[0])
    bend = torch.func.vmap(torch.func.vmap(torch.func.hessian(task.criterion)))(scores, batch[1])
    return slopes, bend / batch[0].shape[1]


@dataclass(frozen=True)
class GaussNewton(li.TransitionApproximation):
    """`A_t = 1 - rate_t H_t` of a training by SGD, as `li.LowRank`.

    Attributes:
        task: what is trained.

    Raises:
        ValueError: in a solve, for an optimizer with other coordinates than the parameters.
    """

    task: Task = field(repr=False)

    def transition(self, lin: li.Linearization) -> li.LowRank:
        rows, rate, _ = lin.inputs
        if lin.prev.shape[-1] != len(self.task.x):
            raise ValueError(
                f"`GaussNewton` is for SGD, whose state are the P = {len(self.task.x)} parameters, got a state of "
                f"{lin.prev.shape[-1]} numbers. Type `PerParameter(task, training)`."
            )
        slopes, bend = curvature(self.task, lin.prev, (self.task.data[0][rows], self.task.data[1][rows]))
        u = (-rate.view(-1, 1, 1, 1) * bend) @ slopes
        one = torch.ones((), dtype=u.dtype, device=u.device).expand(lin.prev.shape)
        return li.LowRank(one, u.flatten(1, 2).mT, slopes.flatten(1, 2).mT)

    def for_adjoint(self) -> li.Newton:
        return li.Newton()  # the adjoint is not a training


@dataclass(frozen=True)
class PerParameter(li.TransitionApproximation):
    """A block for each parameter, as large as the optimizer has coordinates: 3 x 3 for Adam.

    Attributes:
        task: what is trained.
        training: by which optimizer.
    """

    task: Task = field(repr=False)
    training: Training = field(repr=False)

    def transition(self, lin: li.Linearization) -> li.BlockDiagonal:
        optimizer, (rows, rate, t) = self.training.optimizer, lin.inputs
        batch = (self.task.data[0][rows], self.task.data[1][rows])
        local = lin.prev.unflatten(-1, (-1, optimizer.size))
        slopes, bend = curvature(self.task, local[..., 0], batch)
        diagonal = ((bend @ slopes) * slopes).sum((1, 2))  # dg/dx, (n, P)
        g = self.training.gradients(local[..., 0], batch)

        def update(s: Tensor, g: Tensor) -> Tensor:
            return optimizer.update(s, g, rate.unsqueeze(-1), t.unsqueeze(-1))

        def column(along: Tensor) -> Any:
            direction = along.expand_as(local)
            return torch.func.jvp(update, (local, g), (direction, direction[..., 0] * diagonal))[1]

        units = torch.eye(optimizer.size, dtype=local.dtype, device=local.device)
        return li.BlockDiagonal(torch.stack([column(one) for one in units], -1))

    def for_adjoint(self) -> li.Newton:
        return li.Newton()  # the adjoint is not a training
