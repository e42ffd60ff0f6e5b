"""What is trained: logistic regression, a small network and a wider one, on scikit-learn's data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.mcmc.problems import breast_cancer


class Task(NamedTuple):
    """What is trained.

    Attributes:
        predict: from parameters `(P)` and features `(B, F)` to K numbers per example, `(B, K)`.
        criterion: from such numbers and labels, both `(..., K)`, to the loss of each example, `(...)`; convex in the
            numbers.
        data: features `(N, F)` and labels `(N, K)`.
        x: the parameters to start from, `(P)`.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    x: Tensor

    def loss(self, parameters: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over the examples of a batch."""
        return self.criterion(self.predict(parameters, batch[0]), batch[1]).mean()

    def to(self, device: torch.device) -> Task:
        """The same with data and parameters on a device."""
        features, labels = self.data
        return self._replace(data=(features.to(device), labels.to(device)), x=self.x.to(device))


def tumours(features: int = 9) -> Task:
    """Logistic regression on 569 tumours: so many features and a constant."""
    x, y = breast_cancer()
    x = torch.cat([x[:, :features], x[:, -1:]], 1)

    def predict(weights: Tensor, rows: Tensor) -> Tensor:
        return (rows @ weights).unsqueeze(-1)

    return Task(predict, _two_kinds, (x, y.unsqueeze(-1)), torch.zeros_like(x[0]))


def irises(hidden: int = 4) -> Task:
    """A network with one hidden layer of tanh, on 150 flowers of 3 kinds."""
    from sklearn.datasets import load_iris

    features, kinds = load_iris(return_X_y=True)
    x = torch.tensor(features, dtype=torch.float64, device="cpu")
    labels = torch.nn.functional.one_hot(torch.tensor(kinds, device="cpu")).to(x)
    return _network((x - x.mean(0)) / x.std(0), labels, hidden, _many_kinds)


def network(hidden: int = 19) -> Task:
    """A network with one hidden layer of tanh on all 30 features of the tumours: 609 parameters."""
    x, y = breast_cancer()
    return _network(x[:, :-1], y.unsqueeze(-1), hidden, _two_kinds)


def _network(x: Tensor, labels: Tensor, hidden: int, criterion: Callable[[Tensor, Tensor], Tensor]) -> Task:
    shapes = ((x.shape[1], hidden), (hidden,), (hidden, labels.shape[1]), (labels.shape[1],))
    sizes = [torch.Size(shape).numel() for shape in shapes]

    def predict(parameters: Tensor, rows: Tensor) -> Tensor:
        parts = zip(parameters.split(sizes), shapes, strict=True)
        weight, bias, out, constant = (part.view(shape) for part, shape in parts)
        return torch.tanh(rows @ weight + bias) @ out + constant

    chance = torch.Generator("cpu").manual_seed(0)
    drawn = [torch.randn(shape, generator=chance, dtype=x.dtype, device="cpu") for shape in shapes]
    start = [part / len(part) ** 0.5 * (part.ndim > 1) for part in drawn]
    return Task(predict, criterion, (x, labels), torch.cat([part.flatten() for part in start]))


def _two_kinds(score: Tensor, label: Tensor) -> Tensor:
    """`-log p` of a label, 0 or 1, whose score is `log p / (1 - p)`."""
    return (torch.nn.functional.softplus(score) - label * score).squeeze(-1)


def _many_kinds(scores: Tensor, label: Tensor) -> Tensor:
    """`-log p` of the kind that `label` marks by a 1."""
    return -(label * scores.log_softmax(-1)).sum(-1)


TASKS = {"tumours": tumours, "irises": irises, "network": network}
