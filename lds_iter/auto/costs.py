"""What things cost and how they went: the table that `Auto` goes by, filled as it works.

A table belongs to one `Auto` and grows with its solves, so that the second solve of a kind need not measure again. It
holds seconds and counts only, no tensors. What is in it changes decisions, never results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lds_iter.loop.state import Problem

Key = tuple[Any, ...]

EXPLORED = 16
"""Solves that an attempt rests for which failed although another arm is known to work: one solve in so many may be
spent on finding something faster."""


SLOWER = 1.3
"""When what is known to work takes so many times what it took, everything else is new again."""


@dataclass(frozen=True)
class Outcome:
    """How the last attempt ended.

    Attributes:
        iterations: those that solved it, or None, and then there is no new attempt before solve number `retry`.
        seconds: of the whole attempt, where it solved the problem.
        failures: in a row.
        retry: see above.
    """

    iterations: int | None
    seconds: float = math.inf
    failures: int = 0
    retry: int = 0


@dataclass
class Costs:
    """Of problems of one kind: the same recurrence, shapes and device.

    Attributes:
        step: seconds of one sequential step; None before the first was taken.
        call: seconds of a call of `f` with one row; None before one was timed.
        row: what every further row of such a call takes; None likewise.
        operation: seconds of an operation of torch on a single row.
        picard: iterations that Picard's method should take, by how far the Jacobian is from the identity; None before
            that was probed.
        gain: by how much a step enlarges a small difference of states, a root mean square; None likewise.
        linear: whether `f` is linear in its state, as far as a probe can tell, or by its own word.
        compiled: whether the recurrence computes an iteration itself, in compiled code, of methods that it was asked
            for.
        sweeps: seconds of an iteration by method and rows.
        outcomes: how the attempts ended, by method and rows.
        credit: seconds that earlier solves were allowed to lose and did not; negative where they lost more.
        solves: how many there were.
    """

    step: float | None = None
    call: float | None = None
    row: float | None = None
    operation: float = 0.0
    picard: float | None = None
    gain: float | None = None
    linear: bool = False
    compiled: dict[str, bool] = field(default_factory=dict)
    sweeps: dict[str, dict[int, float]] = field(default_factory=dict)
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    credit: float = 0.0
    solves: int = 0

    def stepped(self, seconds: float) -> None:
        """Note what a sequential step took."""
        self.step = seconds if self.step is None else math.sqrt(self.step * seconds)

    def swept(self, method: str, rows: int, seconds: float) -> None:
        """Note what an iteration over so many rows took: the least of all, forgotten slowly, for first ones warm up."""
        known = self.sweeps.setdefault(method, {})
        before = known.get(rows)
        known[rows] = seconds if before is None else min(1.02 * before, seconds)

    def forget(self, method: str, rows: int) -> None:
        """Take back what an iteration over so many rows took: a single one that warmed up is no measurement."""
        self.sweeps.get(method, {}).pop(rows, None)

    def sweep(self, method: str, rows: int) -> float | None:
        """What an iteration should take: on the line through the two nearest row counts measured.

        In proportion to the rows where only one count was measured, which is too much for more rows; None without any.
        """
        known = self.sweeps.get(method)
        if not known:
            return None
        if rows in known:
            return known[rows]
        near = sorted(sorted(known, key=lambda n: abs(math.log(n / rows)))[:2])
        if len(near) == 1:
            return known[near[0]] * max(1.0, rows / near[0])
        low, high = near
        slope = max(0.0, (known[high] - known[low]) / (high - low))
        return max(known[low] + slope * (rows - low), 0.5 * known[low])

    def ended(self, method: str, rows: int, iterations: int | None, seconds: float = math.inf) -> None:
        """Note how an attempt ended.

        After a failure it rests for 0, 1, 3, 7 ... solves, while credit grows, and `EXPLORED` times as long where
        something else works. Of seconds the least counts, forgotten slowly, while the iterations stay the same.
        """
        before = self.outcomes.get((method, rows), Outcome(None))
        if iterations is not None:
            if before.iterations == iterations:
                seconds = min(1.02 * before.seconds, seconds)
            elif seconds > SLOWER * before.seconds:  # what others were given up for is no longer true
                self.outcomes = {key: outcome for key, outcome in self.outcomes.items() if outcome.iterations}
            self.outcomes[method, rows] = Outcome(iterations, seconds)
            return
        failures = before.failures + 1
        rest = 2 ** min(failures - 1, 16)
        if any(outcome.iterations is not None for key, outcome in self.outcomes.items() if key != (method, rows)):
            rest *= EXPLORED
        self.outcomes[method, rows] = Outcome(None, math.inf, failures, self.solves + rest)

    def failures(self, method: str, rows: int) -> int:
        """How often attempts have failed in a row."""
        outcome = self.outcomes.get((method, rows))
        return 0 if outcome is None else outcome.failures

    def known(self, method: str, rows: int) -> Outcome | None:
        """The last attempt, if it solved the problem."""
        outcome = self.outcomes.get((method, rows))
        return None if outcome is None or outcome.iterations is None else outcome

    def resting(self, method: str, rows: int) -> bool:
        """Whether an attempt failed too recently to be repeated."""
        outcome = self.outcomes.get((method, rows))
        return outcome is not None and outcome.iterations is None and self.solves < outcome.retry


@dataclass
class CostTable:
    """The costs of every kind of problem that an `Auto` has met.

    Attributes:
        kinds: by the kind of the problem.
        kernels: seconds of a time step of torch's kernels, by layer and shape.
        idle: forwards of a layer that its kernel has answered without a solve; their budgets are unspent, too.
    """

    kinds: dict[Key, Costs] = field(default_factory=dict)
    kernels: dict[Key, float] = field(default_factory=dict)
    idle: int = 0

    def of(self, problem: Problem, *more: Any) -> Costs:
        """The costs of problems like this one; an empty entry at first."""
        linear = getattr(problem.f, "linear_in_state", False) is True
        return self.kinds.setdefault((*kind(problem), *more), Costs(linear=linear))


def kind(problem: Problem) -> Key:
    """What problems must share to cost the same: the code of `f`, the shape of the state, T, dtype, device, threads."""
    s0 = problem.s0
    shape = (problem.length, *s0.shape)
    return name_of(problem.f), shape, str(s0.dtype), s0.device.type, torch.get_num_threads()


def name_of(f: Callable[..., Any]) -> str:
    """A name of the code of `f`: the class of an object, the place in the source of a function."""
    code = getattr(f, "__code__", None)
    if code is None:
        return f"{type(f).__module__}.{type(f).__qualname__}"
    return f"{code.co_filename}:{code.co_firstlineno}:{code.co_qualname}"
