"""A diagonal for states of hundreds of thousands of numbers, where even the exact diagonal is out of reach.

It lies between `li.Damped(li.Picard(), k)`, one number for all coordinates, and `li.QuasiNewton(li.Hutchinson())`, one
number for each: one number per block of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.quasi_newton import AbstractDiagonal, Hutchinson


@dataclass(frozen=True)
class BlockTrace(AbstractDiagonal):
    """A diagonal that is constant over blocks of `size` coordinates (a token, a head): `trace(J_block) / size`.

    That multiple of the identity is the closest to the block in the Frobenius norm. Its estimate from probes averages
    over the block, so one probe serves where the estimate of each number by itself would be noise.

    Attributes:
        size: of a block, a divisor of D; the width of a token's state for one number per token.
        probes: forward-mode products.
        seed: of their random signs.
    """

    size: int
    probes: int = 1
    seed: int = 0

    def __call__(self, lin: Linearization) -> Tensor:
        width = lin.residual.shape[-1]
        if self.size < 1 or width % self.size:
            raise ValueError(f"`size` must divide D = {width}, got {self.size}. Type the width of a token's state.")
        noisy = Hutchinson(self.probes, self.seed)(lin)
        blocks = noisy.unflatten(-1, (-1, self.size))
        return blocks.mean(-1, keepdim=True).expand_as(blocks).flatten(-2)
