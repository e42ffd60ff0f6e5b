"""What the network's derivative would be if images were Gaussian noise themselves: known without evaluating anything.

With `x = alpha x0 + sigma n`, images `x0` of variance `v` and mean zero, and noise `n` of variance one, the best
estimate of the noise is `sigma x / (alpha^2 v + sigma^2)`; of the image, `alpha v x / (...)`; of the two velocities,
`alpha sigma (1 - v) x / (...)` and, for flow matching, `(sigma - alpha v) x / (...)`. The factor in front of `x` is the
slope. With `v = 1` in a variance-preserving scheduler it makes the transition of a small step the identity, which is
Picard iteration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VARIANCE = 0.25
"""Of images, given their conditioning, where they are taken for Gaussian."""


@dataclass(frozen=True)
class Levels:
    """Signal and noise in what the network sees, and what it predicts.

    Attributes:
        alpha, sigma: `(T,)`.
        kind: the scheduler's `prediction_type`; "" where nothing is known of the network.
    """

    alpha: Tensor
    sigma: Tensor
    kind: str

    def slopes(self, variance: float | None) -> Tensor:
        """The slope for images of that variance, `(T,)`; 0 where nothing is known, or for None."""
        alpha, sigma = self.alpha, self.sigma
        if variance is None:
            return torch.zeros_like(alpha)
        total = alpha.square() * variance + sigma.square()
        match self.kind:
            case "epsilon":
                return sigma / total
            case "sample":
                return alpha * variance / total
            case "v_prediction":
                return alpha * sigma * (1 - variance) / total
            case "flow_prediction":
                return (sigma - alpha * variance) / total
        return torch.zeros_like(alpha)

    def to(self, like: Tensor) -> Levels:
        """In the dtype and on the device of `like`."""
        return Levels(self.alpha.to(like), self.sigma.to(like), self.kind)


def levels_of(scheduler: Any, timesteps: Tensor) -> Levels:
    """The levels at timesteps `(T,)`, float64, of a scheduler after `set_timesteps`."""
    config, times = scheduler.config, timesteps.double().cpu()
    kind, table = config.get("prediction_type"), getattr(scheduler, "alphas_cumprod", None)
    if kind == "flow_prediction" or config.get("use_flow_sigmas") or (kind is None and "shift" in config):
        sigma = times / config.get("num_train_timesteps", 1000)
        return Levels(1 - sigma, sigma, "flow_prediction")
    if table is None or not bool(((times >= 0) & (times <= len(table) - 1)).all()):
        return Levels(torch.ones_like(times), torch.ones_like(times), "")  # a preconditioning of its own
    table, below = table.double().cpu(), times.floor().long()
    signal = torch.lerp(table[below], table[(below + 1).clamp(max=len(table) - 1)], times - below)
    return Levels(signal.sqrt(), (1 - signal).sqrt(), str(kind))
