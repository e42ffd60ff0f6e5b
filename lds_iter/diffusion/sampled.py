"""What a sampler returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import lds_iter as li
from recipes.diffusion.network import Work


@dataclass(frozen=True)
class Sampled:
    """What a sampler returns.

    Attributes:
        sample: like the noise that it started from, `(B, *shape)`.
        trajectory: the samples after each step, `(T, B, *shape)`, float32 or float64.
        timesteps: `(T,)`.
        work: rounds (sequential calls of the model) and evaluations; step by step both are T.
        correction: the largest change that the last scan still made, per sample, `(B,)`, in units of the noise level:
            an estimate of the error before it. What is left is smaller.
        solution: of `li.solve`; None for a sample drawn step by step.
    """

    sample: Tensor
    trajectory: Tensor
    timesteps: Tensor
    work: Work
    correction: Tensor
    solution: li.Solution | None
