"""The methods that the table compares, in one place: add a line here and it is measured everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lds_iter as li


@dataclass(frozen=True)
class Candidate:
    """A way to solve a problem: one method, or the best of several that differ in a number tuned by hand.

    Attributes:
        name: of the row.
        grid: the methods by what was tuned; a single one under the empty name when nothing is.
    """

    name: str
    grid: dict[str, li.LDSApproximation]


DAMPINGS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""The damping `k` tried, for the best of them; every half decade, which flatters what is tuned by hand."""
SIGMA_SQUARED = (1e2, 3e2, 1e3, 1e4, 1e6, 1e8)
"""The variances tried for a Levenberg-Marquardt step, as the sources tune them."""


def candidates(wide: bool = False) -> Iterator[Candidate]:
    """What is compared, in the order of the table; for wide states every other setting is tried."""
    newton, stride = li.Newton(), 2 if wide else 1
    yield Candidate("Newton", {"": newton})
    yield Candidate("QuasiNewton", {"": li.QuasiNewton()})
    yield Candidate("Damped(Newton)", {f"k={k:g}": li.Damped(newton, k) for k in DAMPINGS[::stride]})
    yield Candidate(JACOBI_FIRST, {"": li.Then(li.Jacobi(), newton, 16)})
    tuned: dict[str, li.LDSApproximation] = {
        f"sigma2={value:.0e}": li.LevenbergMarquardt(value) for value in SIGMA_SQUARED[::stride]
    }
    yield Candidate("LevenbergMarquardt", tuned)
    diagonal: dict[str, li.LDSApproximation] = {
        f"sigma2={value:.0e}": li.LevenbergMarquardt(value, li.QuasiNewton()) for value in SIGMA_SQUARED[::stride]
    }
    yield Candidate("Diagonal LevenbergMarquardt", diagonal)
    yield Candidate("TrustRegion(Newton)", {"": li.TrustRegion(newton)})
    yield Candidate("TrustRegion(Kalman)", {"": li.TrustRegion(li.LevenbergMarquardt(1.0))})
    yield Candidate("TrustRegion(QuasiNewton)", {"": li.TrustRegion(li.QuasiNewton())})


JACOBI_FIRST = "Jacobi, then Newton"
"""Not timed: after sixteen cheap sweeps its iterations are Newton's."""
