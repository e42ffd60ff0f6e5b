"""The clock that `Auto` measures with by default."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def wall_clock(like: Tensor) -> float:
    """Seconds since some fixed moment, after all work on the device of `like` is done: `Auto` times what was queued."""
    if like.device.type != "cpu":
        torch.accelerator.synchronize(like.device)
    return time.perf_counter()
