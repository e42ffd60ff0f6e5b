"""What tokens read of those before them: keys and values of settled tokens, and a view for one call of a model.

A `Memory` holds settled tokens of a batch of sequences, each of a length of its own, so a sequence never waits for the
others, and padding of prompts never enters. A `View` of it is what a function of a model gets as its cache: it hands
the keys and values of the settled tokens and of the tokens at hand to attention, and records the latter. Nothing enters
the memory until `Memory.keep` says how many of the tokens at hand have settled, so a wrong draft needs no roll-back.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
        return torch.cat([old[0], keys], dim=-2), torch.cat([old[1], values], dim=-2)

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """How many settled tokens the longest sequence has."""
        return self._memory.longest

    def mask(self, tokens: int, device: torch.device) -> Tensor:
        """Which keys each of the `tokens` at hand reads, bool, `(N or 1, 1, tokens, settled + tokens)`."""
        settled = self._memory.longest
        if self.items is None and self._memory.even:
            shape = tokens, settled + tokens
            return torch.ones(shape, dtype=torch.bool, device=device).tril(settled)[None, None]
        until = self._memory.ends if self.items is None else self.items
        before = torch.arange(settled, device=device) < until.to(device)[:, None]
        own = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
        parts = before[:, None].expand(-1, tokens, -1), own.expand(len(before), -1, -1)
        return torch.cat(parts, dim=-1)[:, None]


class Memory:
    """Keys and values of settled tokens, by part of the model and layer, `(N, heads, L, head width)` each.

    Sequence i has settled tokens at its first `lengths[i]` places, and zeros behind.

    Args:
        sequences: N.
        device: of the keys and values to come.

    Attributes:
        slots: by part of the model and layer.
        lengths: how many tokens of each sequence have settled.
        device: see above.
    """

    def __init__(self, sequences: int = 1, device: torch.device | str = "cpu") -> None:
        self.slots: dict[tuple[Hashable, int], tuple[Tensor, Tensor]] = {}
        self.lengths, self.device = [0] * sequences, device

    @property
    def longest(self) -> int:
        """How many settled tokens the longest sequence has: L."""
        return max(self.lengths, default=0)

    @property
    def even(self) -> bool:
        """Whether all sequences have the same length."""
        return len(set(self.lengths)) <= 1

    @property
    def ends(self) -> Tensor:
        """`lengths` as a tensor `(N,)` on the device."""
        return torch.tensor(self.lengths, device=self.device)

    def positions(self, counts: Sequence[int]) -> Tensor:
        """Of the next `counts[i]` tokens of sequence i, `(N, most)`, int64; what fills up is where the last one is."""
        last = torch.tensor(counts, device=self.device)[:, None] - 1
        return self.ends[:, None] + torch.arange(max(counts), device=self.device).minimum(last)

    def view(self, part: Hashable, items: Tensor | None = None) -> View:
        """The cache for one call of `part`."""
        return View(self, part, items)

    def keep(self, views: dict[Hashable, View], counts: Sequence[int]) -> None:
        """Settle the first `counts[i]` of the tokens of sequence i that the views have seen, each under its part."""
        pairs = [(row, column) for row, count in enumerate(counts) for column in range(count)]
        rows, columns = torch.tensor(pairs, dtype=torch.int64, device=self.device).view(-1, 2).unbind(-1)
        places, even, old_length = self.ends[rows] + columns, self.even and len(set(counts)) == 1, self.longest
        self.lengths = [a + b for a, b in zip(self.lengths, counts, strict=True)]

        def grown(before: Tensor | None, after: Tensor) -> Tensor:
            if even:
                new = after[..., : counts[0], :]
                return new if before is None else torch.cat([before, new], dim=-2)
            more = self.longest - (0 if before is None else old_length)
            room = after.new_zeros(*after.shape[:2], more, after.shape[-1])
            whole = room if before is None else torch.cat([before, room], dim=-2)
            whole[rows, :, places] = after[rows, :, columns]
            return whole

        for part, view in views.items():
            for layer, (keys, values) in view.new.items():
                old_keys, old_values = self.slots.get((part, layer), (None, None))
                self.slots[part, layer] = grown(old_keys, keys), grown(old_values, values)

    def parts(self, names: dict[Hashable, Hashable]) -> Memory:
        """The memory of some parts of the model, under the names that they are given here."""
        taken = Memory(len(self.lengths), self.device)
        taken.lengths = list(self.lengths)
        taken.slots = {(names[part], layer): pair for (part, layer), pair in self.slots.items() if part in names}
        return taken

    def take(self, rows: Sequence[int]) -> Memory:
        """The memory of a batch, one sequence of it for each of `rows`."""
        if list(rows) == list(range(len(self.lengths))):
            return self
        index = torch.tensor(list(rows), device=self.device, dtype=torch.int64)
        taken = Memory(len(rows), self.device)
        taken.lengths = [self.lengths[row] for row in rows]
        longest = taken.longest
        taken.slots = {name: (k[index, :, :longest], v[index, :, :longest]) for name, (k, v) in self.slots.items()}
        return taken


def filled_up(rows: Sequence[Sequence[int]], device: torch.device | str, fill: int = 0) -> Tensor:
    """Rows of several lengths as one tensor `(N, longest)`, int64, filled up on the right.

    By causality no token reads what fills up.
    """
    longest = max(map(len, rows))
    filled = [[*row, *[fill] * (longest - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=device).view(len(rows), longest)
