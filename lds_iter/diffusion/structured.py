"""A method for denoising that knows the scheduler and takes images for Gaussian.

A step of the recurrence is `S' = L S + b m`, `m = net(c x)`, with everything known but the derivative `N` of the
network, a matrix of the size of the image: `A = L + b (N c) e_x^T`. `Structured` takes a multiple of the identity,
`N = g I`, with the `g` that Gaussian images would have (`slopes.py`). Then `A` is a small matrix per step (a number,
for a scheduler without memory) times the identity. `Secant` (`secant.py`) builds on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.diffusion.derivatives import DenoisingDerivatives
from lds_iter.diffusion.slopes import VARIANCE
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.base import TransitionApproximation


@dataclass(frozen=True)
class SlotTransition(AbstractTransition):
    """A small matrix between slots, the same for every number of the image. `matrix`: `(n, 1 or B, k, k)`."""

    matrix: Tensor

    def mv(self, x: Tensor) -> Tensor:
        slots = x.unflatten(-1, (self.matrix.shape[-1], -1))
        return (self.matrix @ slots).flatten(-2)

    def after(self, earlier: Any) -> SlotTransition:
        return SlotTransition(self.matrix @ earlier.matrix)

    def transpose(self) -> SlotTransition:
        return SlotTransition(self.matrix.mT)

    def scaled(self, factor: float | Tensor) -> SlotTransition:
        """`factor * A`, exactly zero where the factor is; `factor`: a number, or `(n, 1 or B, 1)`."""
        if not isinstance(factor, Tensor):
            return SlotTransition(factor * self.matrix)
        wide = factor.unsqueeze(-1)
        return SlotTransition(torch.where(wide == 0, 0, wide * self.matrix))


@dataclass(frozen=True)
class Structured(TransitionApproximation):
    """`N = g I`: the scheduler's linear part and the slope of Gaussian images. One scan, no derivatives.

    Attributes:
        variance: of the images, given their conditioning. 1 makes it Picard iteration in a scheduler that preserves
            variance; less is right for images that their class or prompt leaves less free. None for slope 0: the
            linear part of the scheduler alone.
    """

    variance: float | None = VARIANCE

    def transition(self, lin: Linearization) -> AbstractTransition:
        known = denoising(lin, self)
        table, steps = known.recurrence.table, known.steps
        slope = table.levels.slopes(self.variance)[steps] * table.gain[steps]
        matrix = table.linear[steps].clone()
        matrix[..., 0] += table.model[steps] * slope[:, None]
        if known.mask is None:
            return SlotTransition(matrix.unsqueeze(1))
        estimate = table.estimate[steps]
        row = estimate[:, :-1].clone()
        row[:, 0] += estimate[:, -1] * slope
        through = table.clipped[steps][:, :, None] * row[:, None]
        unclipped = known.mask.mean(-1)[..., None, None]  # a number that is clipped passes nothing on
        return SlotTransition(matrix.unsqueeze(1) + unclipped * through.unsqueeze(1))


def denoising(lin: Linearization, method: Any) -> DenoisingDerivatives:
    """The linearization's derivatives, if they are those of a `Denoising`."""
    if not isinstance(lin.derivatives, DenoisingDerivatives):
        raise TypeError(
            f"`{type(method).__name__}` is for the recurrence of a diffusion scheduler (`Denoising`); for others take "
            "li.Newton(), li.QuasiNewton() or li.Picard()."
        )
    return lin.derivatives
