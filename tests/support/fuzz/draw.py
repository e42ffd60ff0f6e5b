"""Random choices that one integer seed repeats."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Draw:
    """Two generators from one seed: Python's for choices, torch's for numbers."""

    def __init__(self, seed: int) -> None:
        self._choices = random.Random(seed)
        self._numbers = torch.Generator().manual_seed(seed)

    def one_of(self, options: Sequence[T]) -> T:
        return self._choices.choice(options)

    def weighted(self, options: dict[Any, float]) -> Any:
        """A key, with a probability in proportion to its value."""
        return self._choices.choices(list(options), list(options.values()))[0]

    def integer(self, low: int, high: int) -> int:
        """Between `low` and `high`, both included."""
        return self._choices.randint(low, high)

    def happens(self, probability: float) -> bool:
        return self._choices.random() < probability

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, generator=self._numbers, dtype=torch.float64).to(dtype)

    def layout(self, x: Tensor) -> Tensor:
        """The same numbers with other strides: as they are, every second of a larger tensor, transposed, reversed."""
        how = self.one_of(("plain", "plain", "strided", "transposed"))
        if how == "strided":
            return torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(-2)[..., ::2] if x.ndim else x
        if how == "transposed" and x.ndim > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        return x
