"""Newton's method on the whole trajectory: `A_t = J_t`.

Published as DEER (Lim, Zhu, Selfridge, Kasim: "Parallelizing non-linear sequential models over the sequence length",
ICLR 2024) and DeepPCR (Danieli et al., NeurIPS 2023). Quadratic convergence; O(T D^2) memory and O(T D^3) work a scan.
"""

from dataclasses import dataclass

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import AbstractTransition
from lds_iter.methods.base import TransitionApproximation


@dataclass(frozen=True)
class Newton(TransitionApproximation):
    """`A_t = J_t`, the full Jacobian: fewest iterations, for states of up to about 64 numbers.

    Solves an `f` that is affine in the state in one iteration. Memory `T D^2`; bound it with `window`. Where `f`
    declares the structure of its Jacobian (`ElementwiseDerivatives`, `StructuredDerivatives`), `A_t` has that
    structure, with its memory and its scan, and the width may be any.
    """

    def transition(self, lin: Linearization) -> AbstractTransition:
        return lin.structured()
