"""The clock that `Auto` measures with: an object, so that its decisions can be repeated with counted costs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.methods.spelling import Composable


class AbstractClock(Composable, ABC):
    """A source of seconds."""

    @abstractmethod
    def now(self, like: Tensor) -> float:
        """Seconds since some fixed moment, after all work on the device of `like` is done."""


@dataclass(frozen=True)
class WallClock(AbstractClock):
    """Wall-clock time. It first waits for the accelerator, because queued work would not be counted otherwise."""

    def now(self, like: Tensor) -> float:
        if like.device.type != "cpu":
            torch.accelerator.synchronize(like.device)
        return time.perf_counter()
