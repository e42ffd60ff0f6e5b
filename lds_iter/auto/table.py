"""The table of a race: for each kind of problem, the seconds and evaluations of every contender.

A kind is the code of `f`, the shapes, the device and the number of threads. Entries are never changed, only replaced,
so that threads may share a table: of two that solve one kind at once, the last to finish is remembered. The table is
bounded, and neither copied nor pickled. Its contents change decisions, never results.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from lds_iter.derivatives.autodiff import without_derivatives
from lds_iter.loop.state import Problem

KINDS_KEPT = 64
"""Largest number of kinds in a table; beyond it the oldest entry is dropped."""

LENGTHS_PER_OCTAVE = 4
"""Number of length classes between T and 2 T. Times within one kind may therefore differ by a fifth."""

RACE_AGAIN_RATIO = 1.3
"""When the winner takes this many times its record twice in a row, all contenders are raced again."""


class RacePlan(NamedTuple):
    """A way to evaluate a sequence: the place of a contender, and the rows of its window, None where that is all."""

    contender: int
    window: int | None = None


STEPWISE, KERNEL = RacePlan(-1), RacePlan(-2)
"""The ways without a method: step by step, and a kernel from outside."""


class PlanRecord(NamedTuple):
    """The cost of a plan.

    Attributes:
        seconds: for all rows; infinite where it was given up.
        evaluations: of the loop.
        sure: false for a failure after one iteration, which may have loaded code, and for a part of a solve.
    """

    seconds: float
    evaluations: int = 0
    sure: bool = True


@dataclass(frozen=True)
class Entry:
    """The records of one kind by plan, and whether the winner was slow in the last solve."""

    records: dict[RacePlan, PlanRecord] = field(default_factory=dict)
    slow: bool = False

    def best(self) -> tuple[RacePlan, PlanRecord] | None:
        """The plan with the best record; None where nothing has succeeded."""
        known = [one for one in self.records.items() if one[1].seconds < math.inf]
        return min(known, key=lambda one: one[1].seconds, default=None)

    def untried(self, contenders: int) -> list[int]:
        """The places of the contenders that have not been tried yet."""
        tried = {plan.contender for plan, record in self.records.items() if record.sure or record.seconds < math.inf}
        return [place for place in range(contenders) if place not in tried]

    def noted(self, plan: RacePlan, record: PlanRecord) -> Entry:
        """The same entry with one more record."""
        return replace(self, records=self.records | {plan: record})

    def repeated(self, plan: RacePlan, record: PlanRecord) -> Entry:
        """The entry after the winner ran again. Its smallest time counts until it is slow."""
        before = self.records[plan]
        if before.sure and record.seconds > RACE_AGAIN_RATIO * before.seconds:
            return Entry() if self.slow else replace(self, slow=True)
        least = min(record.seconds, before.seconds) if before.sure else record.seconds
        return replace(self.noted(plan, record._replace(seconds=least)), slow=False)


class Table:
    """Entries by kind."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Any) -> Entry:
        """The entry of a kind; an empty one at first."""
        return self._entries.get(key, Entry())

    def put(self, key: Any, entry: Entry) -> None:
        """Replace an entry, which is the newest then."""
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = entry
            if len(self._entries) > KINDS_KEPT:
                del self._entries[next(iter(self._entries))]

    def __reduce__(self) -> tuple[type[Table], tuple[()]]:
        return Table, ()


def kind_of(problem: Problem, kernel: str | None) -> tuple[Any, ...]:
    """The key of a kind: what problems must share. `kernel`: the name of a kernel beside them."""
    f, s0 = without_derivatives(problem.f), problem.s0
    code = getattr(f, "__code__", None)  # of a function the place in its source, of an object the class
    name = type(f) if code is None else (code.co_filename, code.co_firstlineno, code.co_qualname)
    length = round(LENGTHS_PER_OCTAVE * math.log2(problem.length))
    return name, length, tuple(s0.shape), s0.dtype, s0.device.type, torch.get_num_threads(), kernel
