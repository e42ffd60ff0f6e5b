"""Noise that makes a choice of tokens repeatable: the Gumbel-max trick, coupled over passes (arXiv 2510.24211)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CoupledNoise:
    """Gumbel noise that belongs to a seed and a position: `argmax(scores + noise)` is a sample from `softmax(scores)`.

    The token at a position is then a function of the scores there, whatever pass they came from, so drafts can be
    checked.

    Attributes:
        seed: any whole number.
    """

    seed: int

    def __call__(self, position: int, like: Tensor) -> Tensor:
        """Noise for the token at `position`, of the shape and device of scores `(..., vocabulary)`."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + position) % (1 << 63))
        uniform = torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu").clamp(min=1e-300)
        return (-torch.log(-torch.log(uniform))).to(like)
