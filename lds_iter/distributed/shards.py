"""Who holds which time steps, and how numbers travel between the holders.

Every rank of a process group holds consecutive time steps, rank after rank in order of time. Three kinds of messages
are all that a solve needs:

- `gather`: every rank sees some numbers of every other rank (an all-gather);
- `pass_on`: every rank gives one row to the rank that holds the time steps after (or before) its own;
- what is made of these two: the largest number over all time steps, the answer of the first rank.

All ranks call the same functions in the same order. What they decide by is what they all have seen, so they decide
alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lds_iter.distributed.call import begun
from lds_iter.distributed.messages import Messages
from lds_iter.distributed.waiting import telling

ALIGNMENT = 8
"""Bytes: tensors of several dtypes share a message, each at a multiple of this."""


@dataclass(frozen=True)
class TimeShards:
    """The time steps of one trajectory over the ranks of a process group.

    Attributes:
        messages: to the other ranks of the process group.
        sizes: time steps of each rank, in the order of the group; some may be 0, not all.
        backwards: whether time runs from the last rank to the first, as it does for an adjoint.
    """

    messages: Messages
    sizes: tuple[int, ...]
    backwards: bool = False

    @functools.cached_property
    def rank(self) -> int:
        """The number of this process in the group."""
        return self.messages.call.rank

    @functools.cached_property
    def holders(self) -> tuple[int, ...]:
        """The ranks that hold time steps, in order of time."""
        held = tuple(rank for rank, size in enumerate(self.sizes) if size)
        return held[::-1] if self.backwards else held

    @property
    def length(self) -> int:
        """T, of the whole trajectory."""
        return sum(self.sizes)

    @property
    def is_empty(self) -> bool:
        """Whether this rank holds no time step. Such a rank computes along with one row that is never open."""
        return self.sizes[self.rank] == 0

    @functools.cached_property
    def first(self) -> int:
        """The time of this rank's first row; T where it holds none."""
        if self.is_empty:
            return self.length
        return sum(self.sizes[rank] for rank in self.holders[: self.holders.index(self.rank)])

    @property
    def held(self) -> slice:
        """The times of the rows of this rank's tensors: its time steps, or the one row of a rank without any."""
        return slice(self.first, self.first + max(1, self.sizes[self.rank]))

    def reversed(self, sizes: Sequence[int]) -> TimeShards:
        """The same ranks for a recurrence backwards in time, in which they hold `sizes` time steps."""
        return replace(self, sizes=tuple(sizes), backwards=not self.backwards)

    def neighbour(self, step: int) -> int | None:
        """The rank that holds the time steps after this rank's (`step=1`), or before them (-1); None at an end."""
        if self.is_empty:
            return None
        place = self.holders.index(self.rank) + step
        return self.holders[place] if 0 <= place < len(self.holders) else None

    def gather(self, *tensors: Tensor, what: str = "numbers") -> list[Tensor]:
        """The same tensors of all ranks, `(ranks, *shape)` each, in one message.

        Args:
            tensors: of the same shapes on every rank.
            what: what they are, in words that are the same on every rank.

        Raises:
            ValueError: on every rank, where one sends something else.
        """
        parts = [tensor.detach().contiguous() for tensor in tensors]
        message = torch.cat([_bytes(part) for part in parts])
        answers = self.messages.all_gather(message, f"{what} {_layout(parts)}")
        found, start = [], 0
        for part in parts:
            size = part.numel() * part.element_size()
            numbers = answers[:, start : start + size].contiguous().view(part.dtype)
            found.append(numbers.view(len(self.sizes), *part.shape))
            start += _padded(size)
        return found

    def in_order(self, gathered: Tensor) -> Tensor:
        """Of what every rank gave, `(ranks, ...)`, that of the holders, in order of time."""
        if len(self.holders) == len(self.sizes) and not self.backwards:
            return gathered
        return gathered[list(self.holders)]

    @property
    def place(self) -> int:
        """The rank's place among the holders; for a rank without time steps, the last one."""
        return len(self.holders) - 1 if self.is_empty else self.holders.index(self.rank)

    def pass_on(self, row: Tensor, instead: Tensor, step: int = 1) -> Tensor:
        """Give a row to the neighbour after this rank (`step=1`) or before it (-1), and get the other neighbour's.

        Args:
            row: of any shape, the same on all ranks.
            instead: what a rank without such a neighbour gets, of the same shape.
            step: the direction.
        """
        target, source = self.neighbour(step), self.neighbour(-step)
        row = row.detach().contiguous()
        what = f"a row {_layout([row])} for the rank {'after' if step > 0 else 'before'}"
        answer = self.messages.pass_on(_bytes(row), what, target, source)
        if answer is None:
            return instead
        return answer[: row.numel() * row.element_size()].contiguous().view(row.dtype).view(row.shape)

    def largest(self, x: Tensor) -> Tensor:
        """The largest over the holders, number by number; NaN where there is one."""
        return self.in_order(self.gather(x)[0]).amax(0)

    def total(self, x: Tensor) -> Tensor:
        """The sum over the holders, number by number."""
        return self.in_order(self.gather(x)[0]).sum(0)

    def of_first_rank(self, x: Tensor) -> Tensor:
        """The first rank's numbers."""
        return self.gather(x)[0][0]

    def telling(self) -> AbstractContextManager[None]:
        """A context that tells the other ranks of an error in it, so that none waits for this rank."""
        return telling(self.messages.call)

    def during(self, name: str) -> TimeShards:
        """The same in another call than `solve`.

        Raises:
            RankError: when the group has failed before.
        """
        call = self.messages.call
        return replace(self, messages=Messages(begun(call.group, name, call.key)))

    def whole(self, x: Tensor) -> Tensor:
        """All time steps, `(T, ...)`, of which every rank gives its own rows, `(rows, ...)`."""
        room = x.new_zeros(max(1, *self.sizes), *x.shape[1:])
        room[: len(x)] = x
        (parts,) = self.gather(room)
        return torch.cat([parts[rank, : self.sizes[rank]] for rank in self.holders])


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _layout(parts: Sequence[Tensor]) -> str:
    return ", ".join(f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}" for part in parts)


def _bytes(tensor: Tensor) -> Tensor:
    """The numbers of a contiguous tensor as bytes, filled up to a multiple of `ALIGNMENT`."""
    raw = tensor.reshape(-1).view(torch.uint8)
    missing = _padded(len(raw)) - len(raw)
    return torch.cat([raw, raw.new_zeros(missing)]) if missing else raw
