"""Learned variance: the network predicts how much noise a step adds, in a second half of its channels.

Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021. With `v` the second half,

    learned_range:  log variance = (v + 1) / 2 * high + (1 - v) / 2 * low        learned:  variance = v

where `low` and `high` are the logarithms of the smallest and the largest variance that a step can have.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEARNED = ("learned", "learned_range")
"""The values of `variance_type` for which a network tells the variance."""


def learned_kind(scheduler: Any) -> str | None:
    """How the network tells the variance; None where the scheduler is not told any.

    A configuration that comes from another scheduler may hold settings that this one does not have. DPM-Solver has the
    setting, and leaves out what it is told.
    """
    known, kind = inspect.signature(type(scheduler).__init__).parameters, scheduler.config.get("variance_type")
    takes = "variance_type" in known and hasattr(scheduler, "_get_variance")
    return kind if takes and kind in LEARNED else None


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a step's noise from what the network told.

    Attributes:
        low, high: logarithms, `(T,)`; None where the network tells the variance itself.
    """

    low: Tensor | None
    high: Tensor | None

    def deviation(self, steps: Tensor, told: Tensor) -> Tensor:
        """For the steps `(n,)` and the second half of the outputs, `(n, B, D)`."""
        if self.low is None or self.high is None:
            return told.clamp(min=0).sqrt()
        share = (told + 1) / 2
        low, high = self.low[steps].view(-1, 1, 1), self.high[steps].view(-1, 1, 1)
        return torch.exp(0.5 * (share * high + (1 - share) * low))

    def to(self, like: Tensor) -> Spread:
        """In the dtype and on the device of `like`."""
        return Spread(*(value if value is None else value.to(like) for value in (self.low, self.high)))


def spread_of(scheduler: Any, timesteps: Tensor) -> Spread | None:
    """What a prepared scheduler makes of a told variance; None where it is told none."""
    kind = learned_kind(scheduler)
    if kind is None:
        return None
    if kind == "learned":
        return Spread(None, None)
    ends = [
        [
            float(scheduler._get_variance(int(time), torch.tensor(told, device="cpu"), "learned_range"))
            for time in timesteps
        ]
        for told in (-1.0, 1.0)
    ]
    return Spread(*(torch.tensor(end, dtype=torch.float64, device="cpu") for end in ends))
