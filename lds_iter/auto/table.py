"""The table of a race: for each kind of problem, what every contender took.

A kind is the code of `f`, the shapes, the device and the number of threads. Entries are never changed, only replaced,
so that threads may share a table: of two that solve the same kind at once, the last one to finish is remembered. The
table is bounded, and neither copied nor pickled. What is in it changes decisions, never results.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.loop.state import Problem

KINDS_KEPT = 64
"""Kinds of problems in a table; the one that was solved longest ago gives way."""

STATES_KEPT_NUMBERS = 1 << 24
"""Numbers of all remembered states together, 64 MiB in float32; the oldest give way."""

LENGTHS_PER_OCTAVE = 4
"""Lengths between T and 2 T that are told apart: times of one kind may differ by a fifth for that reason."""

RACE_AGAIN_RATIO = 1.3
"""When the winner takes so many times its record, twice in a row, all contenders are new again."""


@dataclass(frozen=True)
class Plan:
    """A way to evaluate a sequence.

    Attributes:
        contender: place of the method among the contenders.
        window: rows of the window that slides; None where all rows are evaluated at once.
    """

    contender: int
    window: int | None = None


STEPS, KERNEL = Plan(-1), Plan(-2)
"""The two ways without a method of this package: step by step, and a kernel from outside."""


@dataclass(frozen=True)
class Record:
    """What a plan took.

    Attributes:
        seconds: for all rows; infinite where it was given up.
        evaluations: of the loop.
        final: whether another attempt is pointless: a first one may have been slow because code was loaded.
    """

    seconds: float = math.inf
    evaluations: int = 0
    final: bool = True


@dataclass(frozen=True)
class Entry:
    """What is known of one kind.

    Attributes:
        records: by plan; that of `STEPS` is a sample of steps, times T.
        slow: solves in a row in which the winner took `RACE_AGAIN_RATIO` times its record or more.
        states: the last solution with `s0` before it, `(T + 1, *batch, D)`, where the next solve may begin.
        unhelpful: how many times in a row remembered states were no nearer than the guess.
        skip: solves that are not remembered, for that reason.
    """

    records: dict[Plan, Record] = field(default_factory=dict)
    slow: int = 0
    states: Tensor | None = None
    unhelpful: int = 0
    skip: int = 0

    def best(self) -> tuple[Plan, Record] | None:
        """The plan with the best record; None where nothing has succeeded."""
        known = [one for one in self.records.items() if one[1].seconds < math.inf]
        return min(known, key=lambda one: one[1].seconds, default=None)

    def sequential(self, kernel: bool) -> float | None:
        """Seconds of all rows step by step, or by the kernel; None before they were timed."""
        record = self.records.get(KERNEL if kernel else STEPS)
        return None if record is None else record.seconds

    def untried(self, contenders: int) -> list[int]:
        """The contenders that are still to be tried."""
        tried = {plan.contender for plan, record in self.records.items() if record.final}
        return [contender for contender in range(contenders) if contender not in tried]

    def noted(self, plan: Plan, record: Record) -> Entry:
        """With the record of an attempt."""
        return replace(self, records=self.records | {plan: record})

    def repeated(self, plan: Plan, record: Record) -> Entry:
        """After the winner was run once more: the least of its times counts, until it is slow."""
        before = self.records[plan].seconds
        if record.seconds <= RACE_AGAIN_RATIO * before:
            return replace(self.noted(plan, replace(record, seconds=min(before, record.seconds))), slow=0)
        return replace(self, slow=1) if self.slow == 0 else replace(self, records={}, slow=0)


class Table:
    """Entries by kind."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Any) -> Entry:
        """The entry of a kind; an empty one at first."""
        with self._lock:
            return self._entries.get(key, Entry())

    def put(self, key: Any, entry: Entry) -> None:
        """Replace an entry; it is the newest then."""
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = entry
            while len(self._entries) > KINDS_KEPT:
                del self._entries[next(iter(self._entries))]
            room = STATES_KEPT_NUMBERS
            for old, one in reversed(list(self._entries.items())):
                room -= 0 if one.states is None else one.states.numel()
                if one.states is not None and room < 0:
                    self._entries[old] = replace(one, states=None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()

    def __reduce__(self) -> tuple[type[Table], tuple[()]]:
        return Table, ()


def kind(problem: Problem, kernel: str | None) -> tuple[Any, ...]:
    """What problems must share to be of one kind."""
    s0 = problem.s0
    length = round(LENGTHS_PER_OCTAVE * math.log2(problem.length))
    return name_of(problem.f), length, tuple(s0.shape), s0.dtype, s0.device.type, torch.get_num_threads(), kernel


def name_of(f: Callable[..., Any]) -> str:
    """A name of the code of `f`: the class of an object, the place in the source of a function."""
    code = getattr(f, "__code__", None)
    if code is None:
        return f"{type(f).__module__}.{type(f).__qualname__}"
    return f"{code.co_filename}:{code.co_firstlineno}:{code.co_qualname}"
