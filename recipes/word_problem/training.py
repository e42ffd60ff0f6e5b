"""Training on words whose length doubles as soon as a model reads the present one, up to 10,000 letters and more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.devices import CPU, put
from recipes.word_problem.groups import elements, places
from recipes.word_problem.models import WordModel

PASSED = 0.99
"""Accuracy over all letters of a batch from which words become longer."""


@dataclass(frozen=True)
class Stage:
    """What the training at one length came to: steps taken, and loss and accuracy of the last one."""

    length: int
    steps: int
    loss: float
    accuracy: float


def words_of(group: str, length: int, count: int, generator: torch.Generator, device: torch.device = CPU) -> Tensor:
    """Random words, int64 `(length, count)`, on a device; the generator is one of the CPU."""
    return put(torch.randint(len(elements(group)), (length, count), generator=generator, device="cpu"), device)


def train(
    model: WordModel, group: str, longest: int, *, letters: int, patience: int, rate: float = 0.03
) -> Iterator[Stage]:
    """Train with Adam; a stage for each length. A length that is not passed is the last one.

    Args:
        model: changes as the stages go by.
        group: "S5" or "A5".
        longest: the last length.
        letters: of a batch; there are as many words in it as this allows.
        patience: steps at most at a length.
        rate: of Adam.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    length, steps = min(2, longest), 0
    while True:
        words = words_of(group, length, max(2, letters // length), generator, model.device)
        wanted = places(group, words)
        logs = model(words)
        loss = -logs.gather(-1, wanted.unsqueeze(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        accuracy = float(_right(logs, wanted).mean())  # it decides how long the next words are
        if accuracy > PASSED or steps >= patience:
            yield Stage(length, steps, float(loss.detach()), accuracy)
            if accuracy <= PASSED or length >= longest:
                return
            length, steps = min(2 * length, longest), 0


@torch.no_grad()
def accuracy_by_place(model: WordModel, group: str, length: int, count: int, seed: int = 1) -> Tensor:
    """The share of words that are read right after each letter, `(length)`, on words that were not trained on."""
    words = words_of(group, length, count, torch.Generator("cpu").manual_seed(seed), model.device)
    return _right(model(words), places(group, words)).mean(1)


def _right(logs: Tensor, wanted: Tensor) -> Tensor:
    """1 where all five things are at their places, else 0, `(T, B)`."""
    return (logs.argmax(-1) == wanted).all(-1).float()
