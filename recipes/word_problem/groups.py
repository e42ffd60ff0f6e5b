"""Words over a group of permutations, and what they come to after every letter."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from recipes.devices import CPU

THINGS = 5
GROUPS = ("S5", "A5")


@functools.cache
def elements(group: str, device: torch.device = CPU) -> Tensor:
    """All permutations of a group, int64 `(G, 5)`: row g maps `s` to `s[g]`. S5 has 120, A5 the 60 even ones.

    Raises:
        ValueError: for another group.
    """
    if group not in GROUPS:
        raise ValueError(f"`group` must be one of {', '.join(GROUPS)}, got {group!r}.")
    everything = torch.tensor(list(itertools.permutations(range(THINGS))), device=device)
    pairs = itertools.combinations(range(THINGS), 2)
    swapped = torch.stack([everything[:, i] > everything[:, j] for i, j in pairs]).sum(0)
    return everything if group == "S5" else everything[swapped % 2 == 0]


def matrices(group: str) -> Tensor:
    """The permutation matrices, float32 `(G, 5, 5)`."""
    return torch.eye(THINGS, device="cpu")[elements(group)]


def places(group: str, words: Tensor) -> Tensor:
    """Which thing is at each place after each letter of a word, when thing i was at place i before the first.

    Args:
        group: "S5" or "A5".
        words: letters, numbers of elements, int64 `(T, *batch)`.

    Returns:
        Numbers of things, int64 `(T, *batch, 5)`.
    """
    found = elements(group, words.device)[words]
    reach = 1
    while reach < len(found):  # Hillis and Steele: exact, for permutations do not round
        found = torch.cat([found[:reach], found[:-reach].gather(-1, found[reach:])])
        reach *= 2
    return found
