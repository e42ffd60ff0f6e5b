"""What a sampler returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lds_iter.solution import Solution


@dataclass
class Work:
    """What sampling cost.

    Attributes:
        rounds: batched calls that had to wait for each other: the sequential model calls.
        evaluations: samples times time steps that went through the network; a guided one counts as one.
        products: products with the derivative, likewise, by a difference: one evaluation more for each.
    """

    rounds: int = 0
    evaluations: int = 0
    products: int = 0


@dataclass(frozen=True)
class Sampled:
    """What a sampler returns.

    Attributes:
        sample: like the noise that it started from, `(B, *shape)`.
        trajectory: the samples after each step, `(T, B, *shape)`, float32 or float64, in memory of its own.
        timesteps: `(T,)`.
        work: rounds (sequential calls of the model) and evaluations; step by step both are T.
        correction: the largest change that the last scan still made, per sample, `(B,)`, in units of the noise level.
        solution: of `li.solve`; None for a sample drawn step by step.
    """

    sample: Tensor
    trajectory: Tensor
    timesteps: Tensor
    work: Work
    correction: Tensor
    solution: Solution | None
