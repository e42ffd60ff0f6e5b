"""Warm starts: the states of a sample in one training step as the guess of the next."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lds_iter.methods.spelling import Composable

Place = tuple[torch.nn.Module, int]


class WarmStart(Composable):
    """Remembers the states of every sample, layer and direction, and starts the next solve of that sample from them.

    Parameters change little from step to step, and so do states. It changes how many iterations a solve takes, and
    results only within the tolerance. One object may serve all layers of a model. Outside `samples` it does nothing. It
    keeps `T * D` numbers per sample, layer and direction; a copy of it, or of a model with it, starts empty.

    Args:
        device: where to keep the states, such as "cpu"; where they are when None.

    Example:
        >>> memory = li.nn.WarmStart()
        >>> layer = li.nn.GRU(3, 8, method=li.Newton(), warm_start=memory)
        >>> for _ in range(2):
        ...     with memory.samples(["first", "second"]):
        ...         _ = layer(torch.ones(50, 2, 3))
        >>> layer.last_solution[0].iterations.tolist()
        [0, 0]
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = device
        self._names: tuple[Hashable, ...] | None = None
        self._states: WeakKeyDictionary[torch.nn.Module, dict[tuple[int, Hashable], Tensor]] = WeakKeyDictionary()

    @contextmanager
    def samples(self, names: Iterable[Hashable] | Tensor) -> Iterator[None]:
        """Name the samples of the batches that layers see inside this context, in the order of the batch.

        Args:
            names: one per sample, such as its index in the data set; a tensor of indices will do.

        Raises:
            TypeError: for names that are not hashable.
        """
        before, given = self._names, tuple(names.tolist() if isinstance(names, Tensor) else names)
        for name in given:
            if not isinstance(name, Hashable):
                raise TypeError(
                    f"`names` must be one hashable name per sample, such as its index in the data set, got {name!r}."
                )
        self._names = given
        try:
            yield
        finally:
            self._names = before

    def recall(self, place: Place, length: int, s0: Tensor) -> Tensor | None:
        """A guess `(T, B, D)`; `s0` repeated for a sample not seen before, or seen with another length.

        Args:
            place: the layer's module, and the number of layer and direction within it.
            length: T.
            s0: the states before the first step, `(B, D)`.
        """
        names = self._checked(s0.shape[0])
        known = self._states.get(place[0])
        if names is None or known is None:
            return None
        guess = s0.detach().expand(length, *s0.shape).clone()
        for index, name in enumerate(names):
            states = known.get((place[1], name))
            if states is not None and states.shape == guess[:, index].shape:
                guess[:, index] = states
        return guess

    def remember(self, place: Place, states: Tensor) -> None:
        """Keep states `(T, B, D)` for the next time."""
        names = self._checked(states.shape[1])
        if names is None:
            return
        known = self._states.setdefault(place[0], {})
        for index, name in enumerate(names):
            known[place[1], name] = states[:, index].to(self._device, copy=True)

    def _checked(self, batch: int) -> tuple[Hashable, ...] | None:
        if self._names is not None and len(self._names) != batch:
            raise ValueError(f"`names` must name the {batch} sample(s) of the batch, got {len(self._names)} name(s).")
        return self._names

    def __reduce__(self) -> tuple[Any, ...]:
        return WarmStart, (self._device,)
