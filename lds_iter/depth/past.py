"""What tokens read of those before them: keys and values of settled tokens, and a view for one call of a model.

A `Memory` holds settled tokens. A `View` of it is what a function of a model gets as its cache: it hands the keys and
values of the settled tokens and of the tokens at hand to attention, and records the latter. Nothing enters the memory
until `Memory.keep` says how many of the tokens at hand have settled, so a wrong draft needs no roll-back.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor


class View:
    """The cache of one call of one part of a model; takes the place of a transformers `Cache` in attention layers.

    Args:
        memory: of the settled tokens.
        part: of the model, such as "embed"; each part has keys and values of its own.
        items: see below.

    Attributes:
        new: keys and values of the tokens at hand, by layer; filled while the call runs.
        items: None where the tokens at hand follow one another after the settled ones. Else `(N,)`: the tokens at hand
            are single ones, `(N, 1)`, and token i reads the settled tokens before position `items[i]`, and itself.
    """

    def __init__(self, memory: Memory, part: Hashable, items: Tensor | None = None) -> None:
        self._memory, self._part, self.items = memory, part, items
        self.new: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Keys and values `(N, heads, n, head width)` of the tokens at hand to those of all tokens to be read.

        More arguments are those of transformers' caches, and have no meaning here.
        """
        self.new[int(layer)] = keys, values
        old = self._memory.slots.get((self._part, int(layer)))
        if old is None:
            return keys, values
        before = [part.expand(keys.shape[0], -1, -1, -1) for part in old]
        return torch.cat([before[0], keys], dim=-2), torch.cat([before[1], values], dim=-2)

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """How many settled tokens there are."""
        return self._memory.length

    def mask(self, tokens: int, device: torch.device) -> Tensor:
        """Which keys each of the `tokens` at hand reads, bool, `(N or 1, 1, tokens, settled + tokens)`."""
        settled = self._memory.length
        if self.items is None:
            shape = tokens, settled + tokens
            return torch.ones(shape, dtype=torch.bool, device=device).tril(settled)[None, None]
        before = torch.arange(settled, device=device) < self.items[:, None]
        own = torch.ones(len(self.items), 1, dtype=torch.bool, device=device)
        return torch.cat([before, own], dim=1)[:, None, None]


class Memory:
    """Keys and values of settled tokens, by part of the model and layer, `(N, heads, L, head width)` each."""

    def __init__(self) -> None:
        self.slots: dict[tuple[Hashable, int], tuple[Tensor, Tensor]] = {}
        self.length = 0

    def view(self, part: Hashable, items: Tensor | None = None) -> View:
        """The cache for one call of `part`."""
        return View(self, part, items)

    def keep(self, views: dict[Hashable, View], count: int) -> None:
        """Settle the first `count` of the tokens that the views have seen, each under the name of its part here."""
        for part, view in views.items():
            for layer, (keys, values) in view.new.items():
                new = keys[..., :count, :], values[..., :count, :]
                old = self.slots.get((part, layer))
                joined = new if old is None else tuple(torch.cat(pair, dim=-2) for pair in zip(old, new, strict=True))
                self.slots[part, layer] = joined[0], joined[1]
        self.length += count

    def take(self, rows: Tensor) -> Memory:
        """The memory of a batch, one row of it for each of `rows`, `(N,)`."""
        taken = Memory()
        taken.slots = {name: (keys[rows], values[rows]) for name, (keys, values) in self.slots.items()}
        taken.length = self.length
        return taken
