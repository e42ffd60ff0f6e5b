"""The table of a `Schedule` as the recurrence uses it: in units of the sizes of the slots, on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.diffusion.schedule import Schedule, variance_preserving
from lds_iter.diffusion.slopes import Levels
from lds_iter.diffusion.spread import Spread


@dataclass(frozen=True)
class Coefficients:
    """The table of a `Schedule` in units of the slots' sizes, on the device of the states; names as there.

    Attributes:
        size: of the slots before each step and after the last, `(T + 1, k)`.
        gain: the network sees `gain * state`, `(T,)`.
        levels: of signal and noise in what the network sees.
    """

    size: Tensor
    timesteps: Tensor
    gain: Tensor
    levels: Levels
    linear: Tensor
    model: Tensor
    clipped: Tensor
    estimate: Tensor
    spread: Spread | None

    @staticmethod
    def of(schedule: Schedule, like: Tensor) -> Coefficients:
        """The table in the dtype and on the device of `like`."""
        size = variance_preserving(schedule)
        before, after = size[:-1], size[1:]
        return Coefficients(
            size=size.to(like),
            timesteps=schedule.timesteps.to(like.device),
            gain=(schedule.input_scale * before[:, 0]).to(like),
            levels=schedule.levels.to(like),
            linear=(schedule.linear * before[:, None] / after[..., None]).to(like),
            model=(schedule.model / after).to(like),
            clipped=(schedule.clipped / after).to(like),
            estimate=(schedule.estimate * torch.nn.functional.pad(before, (0, 1), value=1.0)).to(like),
            spread=None if schedule.spread is None else schedule.spread.to(like),
        )


def widened(noise: Tensor) -> Tensor:
    """In the dtype of the states: float32 at least."""
    return noise.to(torch.promote_types(noise.dtype, torch.float32))
