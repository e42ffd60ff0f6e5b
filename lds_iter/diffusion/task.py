"""What a sampler is asked to draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.conditioning import check_conditioning, check_pair


@dataclass(frozen=True, kw_only=True)
class Task:
    """The arguments of `ParallelSampler.__call__` that a loop over the steps has as well; see there for each.

    Raises:
        TypeError, ValueError: for arguments that do not fit each other.
    """

    noise: Tensor
    num_inference_steps: int | None = 50
    conditioning: Mapping[str, Any] = field(default_factory=dict)
    unconditional: Mapping[str, Any] | None = None
    guidance_scale: float | Tensor = 1.0
    guidance_rescale: float = 0.0
    shared: Collection[str] = ()
    generator: torch.Generator | list[torch.Generator] | None = None
    begin: int = 0
    step_options: Mapping[str, Any] = field(default_factory=dict)
    timestep_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_noise(self.noise)
        check_pair(self.conditioning, self.unconditional, self.guidance_scale)
        for name, given in ("conditioning", self.conditioning), ("unconditional", self.unconditional):
            check_conditioning(name, given or {}, len(self.noise), self.shared)


def _check_noise(noise: Tensor) -> None:
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        kind = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"`noise` must be a floating tensor (B, *shape), got {kind}. Type `noise.float()`.")
    if not noise.numel():
        raise ValueError(f"`noise` must be a batch of images, (B, C, H, W), got the empty shape {(*noise.shape,)}.")
