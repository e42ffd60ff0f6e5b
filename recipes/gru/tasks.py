"""What is learnt from a series: a number at every time, or one class for the whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Sample = tuple[Tensor, Tensor]
"""A series `(T, features)`, float32, and its target: `(T, outputs)`, float32, or a class, int64, `()`."""


class AbstractTask(ABC):
    """What the head reads of the states, the loss, and the score that a person reads."""

    @property
    @abstractmethod
    def score_name(self) -> str:
        """Of the score, with its unit."""

    @abstractmethod
    def read(self, states: Tensor) -> Tensor:
        """What the head reads of the last layer's states `(B, T, D)`."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over a batch, a scalar."""

    @abstractmethod
    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """What is averaged over all held-out samples for the score; of a batch, a scalar."""

    @abstractmethod
    def score(self, mean: float) -> float:
        """The score, of the mean of `measure`."""


@dataclass(frozen=True)
class Regression(AbstractTask):
    """A standardised number at every time; squared error.

    Attributes:
        unit: of the target.
        scale: one standard deviation of the target, in that unit.
    """

    unit: str
    scale: float

    @property
    def score_name(self) -> str:
        return f"RMSE in {self.unit}"

    def read(self, states: Tensor) -> Tensor:
        return states

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(output, target)

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(output, target)

    def score(self, mean: float) -> float:
        return self.scale * mean**0.5


@dataclass(frozen=True)
class Classification(AbstractTask):
    """One class for a series, from the mean of the states over time; cross entropy."""

    @property
    def score_name(self) -> str:
        return "accuracy"

    def read(self, states: Tensor) -> Tensor:
        return states.mean(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float().mean()

    def score(self, mean: float) -> float:
        return mean


@dataclass(frozen=True)
class Series:
    """A data set of long series.

    Attributes:
        title: which data.
        about: which task, and how the data were cut, in a sentence or two.
        task: what is learnt.
        train: the samples to learn from.
        held_out: the samples to score on.
        outputs: how many numbers the head returns.
        baselines: scores on `held_out` of something simple, by name.
    """

    title: str
    about: str
    task: AbstractTask
    train: list[Sample]
    held_out: list[Sample]
    outputs: int
    baselines: dict[str, float]

    @property
    def features(self) -> int:
        """Numbers per time step."""
        return self.train[0][0].shape[-1]


class DataUnavailable(RuntimeError):
    """The data are not on this machine, or not as they should be; says what to type."""


def stack(samples: list[Sample]) -> Sample:
    """A batch: `(B, T, features)` and its targets."""
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])
