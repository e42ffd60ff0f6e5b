"""What an iteration should cost, before one was measured: from what an operation of torch and a row of `f` cost here.

An iteration is overhead, so many operations of torch for the loop's own bookkeeping and the scan and so many calls of
`f` for its derivatives, and for every row a multiple of what the row costs in a batch. How many belongs to the method
and to where derivatives come from; they are counts of work, which depend little on the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lds_iter.auto.arms import Candidate
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

if TYPE_CHECKING:
    from lds_iter.auto.costs import Costs
    from lds_iter.auto.course import Course


@dataclass(frozen=True)
class Work:
    """Of an iteration: operations of torch, calls of `f` with one row, rows of `f` for each row and for each column."""

    operations: float
    calls: float
    rows: float
    columns: float = 0.0


COMPILED = COMPILED_DIAGONAL, COMPILED_FULL = Work(130, 1.5, 1.2), Work(130, 1.5, 1.5, 1 / 48)
"""In compiled code, which never forms a Jacobian; its columns count where their weights leave the cache."""

WITHOUT, DIAGONAL = Work(330, 1.5, 2.0), Work(330, 2.5, 3.0)
"""Without derivatives, and with the recurrence's own, a diagonal or blocks."""

FULL, SPILLING, CACHED = Work(330, 2.0, 1.5, 0.2), Work(330, 2.0, 1.5, 0.7), 1 << 22
"""With its own full Jacobians, up to so many numbers of them and beyond, where they come from main memory. Measured on
the mean-field network at D = 8 to 100 and on the sine network: 0.1 to 0.3 and 0.3 to 0.7 rows for each column."""

PLAIN = Work(420, 70.0, 0.0, 3.0)
"""Where torch.func finds the derivatives, at every iteration anew: all columns, for a diagonal too."""

TRUSTED = 1.25
"""An iteration of a `TrustRegion` in units of one of its inner method without compiled code: it looks at the extent."""


def estimate(course: Course, candidate: Candidate, rows: int) -> float | None:
    """Seconds of an iteration over so many rows, the least before it was asked what is compiled; None before a row was
    timed."""
    costs, method = course.costs, candidate.method
    if costs.call is None or costs.row is None:
        return None
    trusted = isinstance(method, TrustRegion)
    work = work_of(course, method.method if trusted else method, "" if trusted else candidate.name)  # pyright: ignore[reportArgumentType]
    if work is FULL and rows * course.problem.s0.numel() * course.problem.s0.shape[-1] > CACHED:
        work = SPILLING
    each = work.rows + work.columns * course.problem.s0.shape[-1]
    seconds = work.operations * costs.operation + work.calls * costs.call + each * costs.row * rows
    return TRUSTED * seconds if trusted else seconds


def work_of(course: Course, method: LDSApproximation, name: str) -> Work:
    """Of a method, by the name that compiled code serves it under, if it does."""
    f, compiled = course.problem.f, course.costs.compiled
    narrow = isinstance(method, QuasiNewton | BlockNewton)
    if isinstance(method, Picard | Jacobi):
        return WITHOUT
    if name and getattr(f, "serves", None) is not None and compiled.get(name, True):
        return COMPILED_DIAGONAL if narrow else COMPILED_FULL
    if getattr(f, "linearize", None) is None:
        return PLAIN
    return DIAGONAL if narrow else FULL


FORGETS, EXPANDS = 0.65, 1.2
"""Gains that promise something. What a step shrinks to 0.65 is gone after 27 steps (1e-5), so that whatever iterates
has converged by then: counts to expect may be relied on. Fresh networks have 0.5 to 0.6, trained ones 0.7 and more.
From 1.2 on differences explode along a wrong guess, and it takes a trust region or many iterations."""

STRUGGLE = 6.0
"""What others then take: that many times the usual count (the sine network of `bench.edge`: 27 of 4 at T = 1,000)."""


def reliable(course: Course, candidate: Candidate) -> bool:
    """Whether what was measured on a few rows says that the method gets on: evidence, as good as an iteration's.

    What a diagonal leaves out is not in the gain, so of such methods only the counts of gated networks are known.
    """
    costs = course.costs
    if costs.linear or work_of(course, candidate.method, candidate.name) not in COMPILED:
        return candidate.linear == 1 and (costs.linear or forgets(costs))
    return forgets(costs) and not candidate.rescue


def forgets(costs: Costs) -> bool:
    """Whether the probe says that everything is forgotten within a few steps."""
    return costs.gain is not None and costs.gain < FORGETS


def expanding(course: Course) -> bool:
    """Whether small differences explode along the guess."""
    return course.costs.gain is not None and course.costs.gain > EXPANDS and not course.costs.linear


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
    usual = candidate.linear if course.costs.linear and candidate.linear is not None else candidate.expected
    if expanding(course) and not candidate.rescue:
        usual *= STRUGGLE
    if isinstance(candidate.method, Picard) and course.costs.picard is not None:
        return max(usual, course.costs.picard)
    return usual
