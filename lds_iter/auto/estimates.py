"""What an iteration should cost, before one was measured: from what a row of `f` costs alone and in a batch.

An iteration is a number of calls of `f` in overhead, for derivatives, the scan and the loop's own tests, and for every
row a multiple of what the row costs in a batch. Both factors belong to the method and to where derivatives come from.
They are ratios of work to work, which depend little on the machine; `python -m bench.auto` prints no figure of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lds_iter.auto.arms import Candidate
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

if TYPE_CHECKING:
    from lds_iter.auto.course import Course

COMPILED_CALLS, CALLS, PLAIN_CALLS = 8, 12, 100
"""Calls of `f` with one row that the overhead of an iteration amounts to: in compiled code; with derivatives of the
recurrence's own, or none; and where torch.func finds them, at every iteration anew."""

WITHOUT, DIAGONAL, COLUMN = 2.0, 3.5, 1.5
"""Rows of `f` that a row of an iteration amounts to: without derivatives, with a diagonal or blocks, and for each column
of a full Jacobian."""

COMPILED_DIAGONAL, COMPILED, COMPILED_COLUMN = 1.2, 1.5, 1 / 48
"""The same in compiled code: with a diagonal; with a full Jacobian, which it never forms; and for each of its columns,
whose weights leave the cache in the end."""

PLAIN = 3.0
"""The same for each column where torch.func finds the derivatives, of which it computes all for a diagonal, too."""

TRUSTED = 1.25
"""An iteration of a `TrustRegion` in units of one of its inner method, without compiled code: it looks at the extent."""


def estimate(course: Course, candidate: Candidate, rows: int) -> float | None:
    """Seconds of an iteration over so many rows, the least before it was asked what is compiled; None before a row was
    timed."""
    call, row, method = course.costs.call, course.costs.row, candidate.method
    if call is None or row is None:
        return None
    f, width = course.problem.f, course.problem.s0.shape[-1]
    if isinstance(method, TrustRegion):
        return TRUSTED * _plain(method.method, width, f, call, row * rows)  # pyright: ignore[reportArgumentType]
    compiled = course.costs.compiled
    if getattr(f, "sweep", None) is not None and (compiled is None or candidate.name in compiled):
        narrow = isinstance(method, QuasiNewton | BlockNewton)
        weight = COMPILED_DIAGONAL if narrow else COMPILED + COMPILED_COLUMN * width
        return COMPILED_CALLS * call + weight * row * rows
    return _plain(method, width, f, call, row * rows)


def _plain(method: LDSApproximation, width: int, f: object, call: float, rows: float) -> float:
    """Without compiled code; `rows`: seconds of all rows in a batch."""
    if isinstance(method, Picard | Jacobi):
        return CALLS * call + WITHOUT * rows
    if getattr(f, "linearize", None) is None:
        return PLAIN_CALLS * call + PLAIN * width * rows
    narrow = isinstance(method, QuasiNewton | BlockNewton)
    return CALLS * call + (DIAGONAL if narrow else DIAGONAL + COLUMN * width) * rows


def least(course: Course) -> float:
    """Seconds that a solve with the best candidate to start with should take, if all is as usual."""
    found = [math.inf]
    for candidate in course.auto.candidates:
        cost = estimate(course, candidate, course.length)
        if cost is not None and not candidate.rescue:
            found.append((expected(course, candidate) + 0.5) * cost)
    return min(found)


def expected(course: Course, candidate: Candidate) -> float:
    """Iterations that the candidate usually takes; for Picard's method by what the first rows tell."""
    linear = getattr(course.problem.f, "linear_in_state", False) is True
    usual = candidate.linear if linear and candidate.linear is not None else candidate.expected
    if isinstance(candidate.method, Picard) and course.costs.picard is not None:
        return max(usual, course.costs.picard)
    return usual
