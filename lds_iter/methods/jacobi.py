"""Jacobi iteration: `A_t = 0`.

Every state is replaced by `f` of the current guess of its predecessor; no scan at all. Made for recurrences that forget
fast, and as the first iterations before Newton on trained networks. Published for feedforward and recurrent networks by
Song, Meng, Liao, Ermon, "Accelerating feedforward computation via parallel nonlinear equation solving", ICML 2021.
"""

from dataclasses import dataclass

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Zero
from lds_iter.methods.base import TransitionApproximation


@dataclass(frozen=True)
class Jacobi(TransitionApproximation):
    """`A_t = 0`: no derivatives, no scan, for recurrences that forget their past within a few steps."""

    def transition(self, lin: Linearization) -> Zero:
        return Zero()
