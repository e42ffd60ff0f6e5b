"""The law that a method works within every wrapper."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.base import Dampable, LDSApproximation, StatefulTransition
from lds_iter.methods.chord import Chord
from lds_iter.methods.clipped import Clipped
from lds_iter.methods.criteria import Below
from lds_iter.methods.damped import Damped
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.low_precision import LowPrecision
from lds_iter.methods.switch import Switch
from lds_iter.methods.then import Then
from lds_iter.methods.trust_region import TrustRegion
from lds_iter.methods.where import Where
from lds_iter.testing.findings import Examination
from lds_iter.testing.of_recurrences import close_to
from lds_iter.testing.trial import Trial


def nests(look: Examination, trial: Trial) -> None:
    """Every wrapper takes it, in every window."""
    with look.law(
        "nests",
        "wrappers around it end at the trajectory too, in every window",
        "Derive from li.TransitionApproximation or li.StatefulTransition where the method is a choice of A. In order "
        "of likelihood: `scaled` or `after` of a structure of your own; a carry that is not kept per sequence.",
    ) as measured:
        for window in trial.windows:
            for wrapped in wrappers(trial.method, torch.float32 if trial.s0.dtype == torch.float64 else torch.bfloat16):
                found = trial.solve(wrapped, window=window)
                measured.true(found.converged, f"{wrapped!r}: {found!r}")
                close_to(measured, found.states, trial.truth, f"{wrapped!r}, window={window}")


def large_rows(lin: Linearization) -> Tensor:
    """Rows with a residual above 0.1, for `Where`."""
    return lin.residual.abs().amax(-1, keepdim=True) > 0.1


def wrappers(method: LDSApproximation, low: torch.dtype) -> list[LDSApproximation]:
    """A method within everything that takes it; `low`: a dtype for `LowPrecision`."""
    found: list[LDSApproximation] = [Switch(Jacobi(), method, Below(0.3))]
    if isinstance(method, Dampable):
        found.append(TrustRegion(method))
    if isinstance(method, StatefulTransition):
        found += [
            Damped(method, 0.1), Clipped(method, 0.9), Then(Jacobi(), method, 2), Chord(method, 3),
            Where(large_rows, method, Jacobi()), LowPrecision(method, low),
        ]  # fmt: skip
    return found
