"""Picard iteration: `A_t = I`.

The update `d_t = d_{t-1} + r_t` is a cumulative sum. Published for diffusion sampling as ParaDiGMS (Shih et al.,
NeurIPS 2023); made for dynamics near the identity, such as small steps of a differential equation.
"""

from dataclasses import dataclass

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Identity
from lds_iter.methods.base import TransitionApproximation


@dataclass(frozen=True)
class Picard(TransitionApproximation):
    """`A_t = I`: no derivatives, for recurrences that change the state little per step."""

    def transition(self, lin: Linearization) -> Identity:
        return Identity()
