"""What `Auto` learns from a few rows of `f`: what rows cost in a batch, how it treats two states that differ, how far
a guess has to go.

Each look is a call of `f` with some rows: a few sequential steps' worth of time, where an iteration may cost hundreds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter.loop.state import Rules
from lds_iter.solution import Result

if TYPE_CHECKING:
    from lds_iter.auto.arms import Candidate
    from lds_iter.auto.course import Course

ROWS, LEAST, NUMBERS = 1024, 8, 1 << 13
"""Rows of a look at most and at least, and between these the numbers that their states may have."""

OPERATIONS = 16
"""Operations of torch that are timed."""

PLACES = 64
"""Rows of a look at how far a guess is."""

FLOOR = 0.1
"""A row is taken to cost at least this part of its share of the whole call: a difference of two calls is uncertain."""

AFAR, LINEAR = 0.1, 1e-4
"""A difference of states, beside their size and 1, that shows whether `f` bends, and how much rounding explains."""

DIGITS, MOST = 11.5, 100
"""Natural digits that Picard's method is expected to find, 1e-5, and iterations that it may take for that."""


def time_operations(course: Course, s: Tensor) -> None:
    """Time operations of torch on a row of states."""
    torch.add(s, s)  # warms up
    begin = course.now()
    for _ in range(OPERATIONS):
        torch.add(s, s)
    course.costs.operation = (course.now() - begin) / OPERATIONS


def time_rows(course: Course, s: Tensor, u: Any) -> Tensor:
    """Time a call of `f` with these rows, `(n, *batch, D)`, against one with a single row; returns the values."""
    f, costs = course.problem.f, course.costs
    one = s[:1], pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, u)
    begin = course.now()
    time_operations(course, one[0])
    f(*one)  # warms up
    start = course.now()
    f(*one)
    costs.call = min(course.now() - start, costs.call or math.inf)
    value = _batch(course, s, u)
    course.parallel += course.now() - begin
    return value


def ask_for_sweeps(course: Course, s: Tensor, u: Any) -> None:
    """Find out of which methods the recurrence computes an iteration itself (see `lds_iter.loop.fused`)."""
    begin = course.now()
    for candidate in course.auto.candidates:
        sweeps(course, candidate, s, u)
    course.parallel += course.now() - begin


def sweeps(course: Course, candidate: Candidate, s: Tensor, u: Any) -> bool:
    """Whether the recurrence computes an iteration of this method itself; it is asked once."""
    serves, known = getattr(course.problem.f, "serves", None), course.costs.compiled
    if serves is None or not _torch.on_host(s):
        return False
    if candidate.name not in known:
        one = pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, u)
        known[candidate.name] = serves(candidate.method, s[:1], one)
    return known[candidate.name]


def look_at_rows(course: Course, s: Tensor, u: Any) -> int:
    """Time these rows, `(n, *batch, D)`, and probe how far `f` carries two states apart.

    By a small difference e, `J e` is measured: its size beside that of e is the gain, and `(J - I) e` is what Picard
    iteration leaves out. By two larger ones, whether `f` is linear in its state; not where it has compiled iterations
    or derivatives of its own, for those are of networks, or where it says so itself. Returns how often `f` was called
    with all rows.
    """
    costs = course.costs
    value = time_rows(course, s, u)
    start = course.now()
    signs = torch.cos(torch.arange(s.numel(), dtype=s.dtype, device=s.device) ** 2).sign().view_as(s)
    extent, calls, moved = 1 + s.abs().amax(), 1, None
    if not costs.linear and getattr(course.problem.f, "linearize", None) is None:
        e = AFAR * extent * signs
        once, twice = _batch(course, s + e, u) - value, _batch(course, s + 2 * e, u) - value
        # Twice the difference of states makes twice that of values, which is not to be had by chance.
        costs.linear = bool((twice - 2 * once).abs().amax() <= LINEAR * once.abs().amax())
        calls, moved = 3, once / (AFAR * extent) if costs.linear else None
    if moved is None:
        size = math.sqrt(torch.finfo(s.dtype).eps) * extent
        calls, moved = calls + 1, (_batch(course, s + size * signs, u) - value) / size
    drift = float((moved - signs).square().mean(-1).sqrt().amax())
    costs.picard = picard_count(drift, course.length) if math.isfinite(drift) else math.inf
    gain = float(moved.square().mean().sqrt())
    costs.gain = gain if math.isfinite(gain) else math.inf
    course.parallel += course.now() - start
    return calls


def _batch(course: Course, s: Tensor, u: Any) -> Tensor:
    """A call of `f` with many rows, and what a row takes in it, by the fastest call with so many."""
    costs, start = course.costs, course.now()
    value = course.problem.f(s, u)
    seconds, rows = course.now() - start, s.shape[0]
    assert costs.call is not None
    row = max((seconds - costs.call) / max(1, rows - 1), FLOOR * seconds / rows)
    costs.row = row if costs.row is None else min(costs.row, row)
    return value


def picard_count(drift: float, length: int) -> float:
    """Iterations of Picard's method: the least k with `x^k / k!` below `exp(-DIGITS)`, for `x` the drift over all rows.

    That is its classical bound for a differential equation whose right side has the Lipschitz constant x. Infinite
    above `MOST`, which other methods need on no problem where they get on at all.
    """
    x, term = max(drift * length, 1e-30), 0.0
    for k in range(1, MOST):
        term += math.log(x / k)
        if term < -DIGITS:
            return k
    return math.inf


def distance(course: Course, buffer: Tensor) -> float:
    """How far a buffer (s0 and the states) is from the solution: what is `missing`, of all that run."""
    assert course.state is not None
    return float(missing(course, buffer)[course.state.result == Result.RUNNING].mean())


def missing(course: Course, buffer: Tensor) -> Tensor:
    """Natural digits that a buffer (s0 and the states) lacks on average, per sequence.

    That is the mean of `log(residual / tolerance)` where that is positive, over a few rows spread over those that are
    open. A trajectory that is right but for a few places has come far; the largest residual would not tell.
    """
    problem, state = course.problem, course.state
    assert state is not None
    begin, n = course.now(), min(PLACES, course.to_go())
    times = torch.linspace(course.front, course.length - 1, n, device=problem.s0.device).round().long()
    u = pytree.tree_map(lambda leaf: leaf[times] if isinstance(leaf, Tensor) else leaf, problem.inputs)
    value = problem.f(buffer[times], u)
    found = _missing((value - buffer[times + 1]).abs(), value, course.rules).mean(0)
    state.evaluations += n
    course.parallel += course.now() - begin
    return found


def rows_of(course: Course) -> int:
    """Rows of a look."""
    most = max(LEAST, NUMBERS // course.problem.s0.numel())
    return max(1, min(ROWS, most, course.length // 8))


def _missing(residual: Tensor, value: Tensor, rules: Rules) -> Tensor:
    """Natural digits to go, per row and sequence; where something is not finite, as many as numbers have."""
    floor = torch.finfo(value.dtype).eps * (1 + value.abs())
    tolerance = torch.maximum(rules.atol + rules.rtol * value.abs(), floor)
    most = -math.log(torch.finfo(value.dtype).tiny)
    return (residual / tolerance).amax(-1).clamp(min=1).log().nan_to_num(most, most).clamp(max=most)
