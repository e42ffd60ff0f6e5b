"""Two linear recurrences that choose their transition by the letter: a matrix, or a diagonal.

Both are affine in the state, so Newton solves them in one iteration, exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

import lds_iter as li
from recipes.word_problem.groups import THINGS


class ByMatrix:
    """`s' = A s`, with a matrix for every step."""

    is_linear = True

    def __call__(self, s: Tensor, a: Tensor) -> Tensor:
        """One step for every row; `s`: `(n, *batch, D)`, `a`: `(n, *batch, D, D)`."""
        return li.Dense(a).mv(s)

    def linearize(self, s: Tensor, a: Tensor) -> li.StructuredDerivatives:
        """The matrices are the Jacobian."""
        return li.StructuredDerivatives(self(s, a), li.Dense(a))


class ByDiagonal:
    """`s' = a s + b`, coordinate by coordinate."""

    is_linear = True

    def __call__(self, s: Tensor, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """One step for every row, `(n, *batch, D)`."""
        a, b = inputs
        return a * s + b

    def linearize(self, s: Tensor, inputs: tuple[Tensor, Tensor]) -> li.ElementwiseDerivatives:
        """The diagonal is the Jacobian."""
        return li.ElementwiseDerivatives(self(s, inputs), inputs[0])


class WordModel(torch.nn.Module, ABC):
    """Reads a word letter by letter, and says after each where the five things are; drawn on the CPU."""

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.parameters()).device

    def forward(self, words: Tensor) -> Tensor:
        """Log probabilities that thing j is at place i, `(T, B, i, j)`, from letters `(T, B)`."""
        return self.read(self.solve(words).states)

    @abstractmethod
    def solve(self, words: Tensor) -> li.Solution:
        """The recurrence of the words, solved."""

    @abstractmethod
    def read(self, states: Tensor) -> Tensor:
        """Log probabilities from states."""


class MatrixModel(WordModel):
    """A stochastic matrix for each letter, learned; their product says where the things are.

    Rows of softmaxes keep every product bounded, and let the matrices come as close to permutations as long words need.

    Args:
        letters: how many there are.
    """

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.randn(letters, THINGS, THINGS, device="cpu"))

    def solve(self, words: Tensor) -> li.Solution:
        a = self.scores.softmax(-1)[words].unsqueeze(2)  # the columns of the product are a batch
        start = torch.eye(THINGS, dtype=a.dtype, device=a.device).expand(words.shape[1], THINGS, THINGS)
        return li.solve(ByMatrix(), start, a.expand(-1, -1, THINGS, -1, -1), li.Newton())

    def read(self, states: Tensor) -> Tensor:
        return states.mT.clamp(min=torch.finfo(states.dtype).tiny).log()


class DiagonalModel(WordModel):
    """A diagonal for each letter, as state-space models have, and a network that reads the state.

    Args:
        letters: how many there are.
        width: D.
    """

    def __init__(self, letters: int, width: int = 128) -> None:
        super().__init__()
        self.decay, self.write = (torch.nn.Parameter(torch.randn(letters, width, device="cpu")) for _ in range(2))
        hidden, out = (torch.nn.Linear(width, size, device="cpu") for size in (width, THINGS * THINGS))
        self.reading = torch.nn.Sequential(hidden, torch.nn.ReLU(), out)

    def solve(self, words: Tensor) -> li.Solution:
        a = torch.tanh(self.decay)  # negative numbers, too: without them not even a parity can be tracked
        start = a.new_zeros(words.shape[1], a.shape[-1])
        return li.solve(ByDiagonal(), start, (a[words], self.write[words]), li.Newton())

    def read(self, states: Tensor) -> Tensor:
        return self.reading(states).unflatten(-1, (THINGS, THINGS)).log_softmax(-1)
