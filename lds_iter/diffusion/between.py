"""What happens to the samples between two steps of a loop: `scale * sample + shift`, number by number."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Between:
    """A mask of inpainting, a callback that scales latents.

    Attributes:
        scale: before each step, of each number of each sample, `(T, B, D)`; 1 before the first step.
        shift: likewise, in the units of the scheduler's samples; 0 before the first step.
    """

    scale: Tensor
    shift: Tensor
