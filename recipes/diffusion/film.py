"""The iterates of a solve, for pictures: a method that is another one, and keeps what each round starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from lds_iter.diffusion.sampler import ParallelSampler
from lds_iter.diffusion.structured import denoising


@dataclass(frozen=True)
class Filmed(li.LDSApproximation):
    """Another method, unchanged, with the samples of each iterate in `frames`, `(T, B, *shape)`."""

    method: li.LDSApproximation
    frames: list[Tensor] = field(default_factory=list)

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        states = lin.value - lin.residual
        self.frames.append(denoising(lin, self).recurrence.samples(states))
        return self.method.update(lin, carry)


def filmed(
    sampler: ParallelSampler,
    noise: Tensor,
    steps: int,
    conditioning: Mapping[str, Any],
    options: Mapping[str, Any],
    generator: torch.Generator,
) -> list[Tensor]:
    """The first sample's trajectory `(T, *shape)`: the guess, every iterate, and the result."""
    film = Filmed(sampler.method)
    sampled = replace(sampler, method=film, window=None)(noise, steps, conditioning, generator=generator, **options)
    return [frame[:, 0] for frame in (*film.frames, sampled.trajectory)]
