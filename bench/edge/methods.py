"""The methods that the table compares, in one place: add a line here and it is measured everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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


DECADES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""The damping `k` tried, for the best of them; every half decade, which flatters what is tuned by hand."""
SIGMA_SQUARED = (1e1, 3e2, 1e4, 1e6, 1e8)
"""The variances tried for a Levenberg-Marquardt step, as the sources tune them."""


def candidates() -> Iterator[Candidate]:
    """What is compared: what the library has, in the order of the table."""
    newton = li.Newton()
    yield Candidate("Newton", {"": newton})
    yield Candidate("QuasiNewton", {"": li.QuasiNewton()})
    yield Candidate("Damped(Newton)", {f"k={k:g}": li.Damped(newton, k) for k in DECADES})
    yield Candidate("Jacobi, then Newton", {"": li.Then(li.Jacobi(), newton, 16)})
    marquardt = _available("LevenbergMarquardt")
    if marquardt is not None:
        yield Candidate("LevenbergMarquardt", {f"{value:.0e}": marquardt(value) for value in SIGMA_SQUARED})
    trust = _available("TrustRegion")
    if trust is not None:
        yield Candidate("TrustRegion(Newton)", {"": trust(newton)})
        yield Candidate("TrustRegion(Kalman)", {"": trust(li.LevenbergMarquardt(1.0))})


def _available(name: str) -> Callable[..., Any] | None:
    """A class of the library by name; None in a version that does not have it."""
    return getattr(li, name, None)
