"""What a peer is, for the tables: whether it can run here, and one evaluation of a problem, ready to be timed."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Problem = TypeVar("Problem", contravariant=True)


def _uncounted() -> None:
    return None


@dataclass(frozen=True)
class Prepared:
    """One problem in the hands of one peer.

    Attributes:
        run: evaluates it once; what it returns is ready when it returns, but for a queue on a GPU of torch's.
        read: what `run` returned, as torch tensors on the CPU: the states `(T, batch, D)`, then, in training, the
            gradients in the order of `torch.nn.GRU.parameters()`.
        iterations: how many the last `run` took; None where the peer does not iterate.
        compiles: whether the first run compiles, so that it does not say how long a run takes.
    """

    run: Callable[[], Any]
    read: Callable[[Any], tuple[Tensor, ...]]
    iterations: Callable[[], int | None] = _uncounted
    compiles: bool = False


class AbstractPeer(ABC, Generic[Problem]):
    """A contender. `name` is its row's label; `package` the distribution that its version is read of."""

    name: str
    package: str

    @abstractmethod
    def available(self, problem: Problem) -> str:
        """Why it cannot run this problem here; empty when it can."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Prepared:
        """Everything that is done once: data converted, functions compiled lazily."""


def on_cpu(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`Prepared.read` of a peer that returns torch tensors."""
    return tuple(tensor.detach().cpu() for tensor in result)


def not_installed(module: str, package: str | None = None) -> str:
    """The reason when a module cannot be found; empty when it can."""
    return "" if find_spec(module) else f"not installed: `pip install {package or module}`"


def needs_cuda(device: str) -> str:
    """The reason of a peer that has kernels for NVIDIA's GPUs only."""
    return "" if torch.device(device).type == "cuda" else "has kernels for CUDA devices only"


def load(module: str) -> Any:
    """A module of a package that may not be installed, and is not type checked."""
    return importlib.import_module(module)
