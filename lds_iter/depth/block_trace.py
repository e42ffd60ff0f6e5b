"""Methods for states of hundreds of thousands of numbers, where even a diagonal is out of reach exactly.

`li.Jacobi()`, `li.Picard()`, `li.Damped(li.Picard(), k)` (which is `(1 - k) I`) and `li.QuasiNewton(li.Hutchinson())`
are at hand already. Here is one between the last two: one number per block of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import lds_iter as li


@dataclass(frozen=True)
class BlockTrace(li.AbstractDiagonal):
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

    def __call__(self, lin: li.Linearization) -> Tensor:
        width = lin.residual.shape[-1]
        if self.size < 1 or width % self.size:
            raise ValueError(f"`size` must divide D = {width}, got {self.size}. Type the width of a token's state.")
        noisy = li.Hutchinson(self.probes, self.seed)(lin)
        blocks = noisy.unflatten(-1, (-1, self.size))
        return blocks.mean(-1, keepdim=True).expand_as(blocks).flatten(-2)


def catalogue(width: int) -> dict[str, li.TransitionApproximation]:
    """The methods that fit a hidden sequence, by the names that tables use; `width` is that of one token."""
    return {
        "Jacobi": li.Jacobi(),
        "Picard": li.Picard(),
        "(1-k) I, k=0.5": li.Damped(li.Picard(), 0.5),
        "Hutchinson, 2 probes": li.Clipped(li.QuasiNewton(li.Hutchinson(probes=2))),
        "trace per token": li.Clipped(li.QuasiNewton(BlockTrace(width))),
    }
