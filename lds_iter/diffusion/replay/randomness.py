"""The generators that a call of a pipeline draws from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Generators:
    """Those among the arguments of a call, and torch's own of the CPU and of the pipeline's device."""

    def __init__(self, arguments: Any, device: torch.device) -> None:
        leaves = pytree.tree_leaves(arguments)
        self._given = list({id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Generator)}.values())
        self._cuda = device if device.type == "cuda" else None

    def states(self) -> list[Tensor]:
        """Where all of them stand."""
        own = [torch.get_rng_state()]
        if self._cuda is not None:
            own.append(torch.cuda.get_rng_state(self._cuda))
        return [*own, *(generator.get_state() for generator in self._given)]

    def set(self, states: list[Tensor]) -> None:
        """Put all of them back to where they stood."""
        own = 1 if self._cuda is None else 2
        torch.set_rng_state(states[0])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states[1], self._cuda)
        for generator, state in zip(self._given, states[own:], strict=True):
            generator.set_state(state)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether nothing was drawn in between."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
