"""Memory counted in live tensor storage, not in what the system reports, and so the same in every run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

R = TypeVar("R")


class PeakStorage(TorchDispatchMode):
    """The largest number of bytes that live in storages made while the mode is on."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.live and key not in known:
                    self.live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def peak_bytes(run: Callable[[], R]) -> tuple[int, R]:
    """The largest number of bytes alive at a time while `run` runs, and its result."""
    with PeakStorage() as mode:
        result = run()
    return mode.peak, result
