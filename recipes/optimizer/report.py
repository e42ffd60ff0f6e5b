"""The picture: losses of all examples along the training, and the learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from recipes.canvas import pyplot, save
from recipes.optimizer.problems import Task

LABELS = ("as given", "every learning rate tuned")


def picture(task: Task, curves: Sequence[Tensor], rates: Sequence[Tensor], path: Path) -> Path:
    """Draw it.

    Args:
        task: what was trained.
        curves: the parameters after every step, `(T, P)`, of one or two trainings.
        rates: their learning rates, `(T)`.
        path: of the picture.
    """
    plt = pyplot()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for curve, rate, name in zip(curves, rates, LABELS, strict=False):
        left.semilogy(torch.func.vmap(lambda x: task.loss(x, task.data))(curve).tolist(), label=name)
        right.plot(rate.tolist(), label=name, linewidth=1)
    left.set(xlabel="step", ylabel="loss of all examples")
    right.set(xlabel="step", ylabel="learning rate")
    left.legend()
    return save(figure, path)
