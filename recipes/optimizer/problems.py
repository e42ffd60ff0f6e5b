"""What is trained: logistic regression, and a small network, on scikit-learn's data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recipes.mcmc.problems import breast_cancer
from recipes.optimizer.training import Loss


class Task(NamedTuple):
    """What is trained.

    Attributes:
        loss: from parameters `(P)` and a minibatch to a number.
        data: features `(N, F)` and labels `(N)`.
        x: the parameters to start from, `(P)`.
    """

    loss: Loss
    data: tuple[Tensor, Tensor]
    x: Tensor


def tumours(features: int = 9) -> Task:
    """Logistic regression on 569 tumours: so many features and a constant."""
    x, y = breast_cancer()

    def loss(weights: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        score = batch[0] @ weights
        return (torch.nn.functional.softplus(score) - batch[1] * score).mean()

    return Task(loss, (torch.cat([x[:, :features], x[:, -1:]], 1), y), torch.zeros(features + 1, dtype=torch.float64))


def irises(hidden: int = 4) -> Task:
    """A network with one hidden layer of tanh, on 150 flowers of 3 kinds."""
    from sklearn.datasets import load_iris

    features, kinds = load_iris(return_X_y=True)
    x = torch.tensor(features, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    shapes = ((4, hidden), (hidden,), (hidden, 3), (3,))
    sizes = [torch.Size(shape).numel() for shape in shapes]

    def loss(parameters: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        parts = zip(parameters.split(sizes), shapes, strict=True)
        weight, bias, out, constant = (part.view(shape) for part, shape in parts)
        return torch.nn.functional.cross_entropy(torch.tanh(batch[0] @ weight + bias) @ out + constant, batch[1])

    chance = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=chance, dtype=x.dtype) / s[0] ** 0.5 * (len(s) > 1) for s in shapes]
    return Task(loss, (x, torch.tensor(kinds)), torch.cat([part.flatten() for part in start]))


TASKS = {"tumours": tumours, "irises": irises}
