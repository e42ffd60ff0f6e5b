"""A network on several devices, which evaluate parts of a round at the same time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

R = TypeVar("R")


class Replicas(torch.nn.Module):
    """Copies of a network, one per device. Called like the network, it is the first of them.

    `ParallelSampler(Replicas(unet, ["cuda:0", "cuda:1"]), scheduler)`, and for a pipeline
    `parallelize(pipe, replicas={"unet": Replicas(pipe.unet, ["cuda:0", "cuda:1"])})`.

    Args:
        model: moved to the first device; the others get copies.
        devices: at least one.
    """

    def __init__(self, model: torch.nn.Module, devices: Sequence[torch.device | str]) -> None:
        super().__init__()
        if not devices:
            raise ValueError("`devices` must name at least one, such as ['cuda:0', 'cuda:1'], got none.")
        self.devices = [torch.device(device) for device in devices]
        others = [copy.deepcopy(model).to(device) for device in self.devices[1:]]
        self.models = torch.nn.ModuleList([model.to(self.devices[0]), *others])

    @property
    def module(self) -> torch.nn.Module:
        """The network on the first device."""
        return self.models[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.models[0](*args, **kwargs)

    def calls(self) -> list[Callable[..., Any]]:
        """One for each device; takes and returns tensors of the first."""
        return [_Moved(model, device, self.devices[0]) for model, device in zip(self.models, self.devices, strict=True)]


class _Moved:
    def __init__(self, model: torch.nn.Module, device: torch.device, home: torch.device) -> None:
        self._model, self._device, self._home = model, device, home

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _to((args, kwargs), self._device)
        with torch.no_grad():  # of this thread
            return _to(self._model(*args, **kwargs), self._home)


def _to(tree: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def calls_of(model: Any) -> list[Callable[..., Any]]:
    """One for each replica; the model itself where it has none."""
    return model.calls() if isinstance(model, Replicas) else [model]


def in_lanes(jobs: Sequence[Callable[[int], R]], lanes: int) -> list[R]:
    """The results of all jobs; each is told its lane, and those of different lanes run at the same time."""
    if lanes == 1:
        return [job(0) for job in jobs]

    def lane(place: int) -> list[R]:
        return [job(place) for job in jobs[place::lanes]]

    with ThreadPoolExecutor(lanes) as pool:
        each = list(pool.map(lane, range(lanes)))
    return [each[place % lanes][place // lanes] for place in range(len(jobs))]
