"""The table of a race: for each kind of problem, the seconds and evaluations of every contender.

A kind is the code of `f`, the shapes, the device, the number of threads, and the kernel from outside, if there is one.
Entries are never changed, only replaced, so that threads may share a table: of two that solve one kind at once, the
last to finish is remembered. The table is bounded, and neither copied nor pickled. It changes decisions, never results.
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

BASE = -1
"""The place of the way without a method, step by step or a kernel from outside; contenders have theirs from 0 on."""


class PlaceRecord(NamedTuple):
    """The cost of a contender, or of the way without a method.

    Attributes:
        seconds: for all rows; infinite where it was given up.
        evaluations: of the loop.
        sure: false for an extrapolation, and for a failure that is to be tried again.
    """

    seconds: float
    evaluations: int = 0
    sure: bool = True


@dataclass(frozen=True)
class Entry:
    """The records of one kind by place, and whether the winner was slow in the last solve."""

    records: dict[int, PlaceRecord] = field(default_factory=dict)
    slow: bool = False

    def best(self) -> tuple[int, PlaceRecord]:
        """The place with the best record; the base where nothing is known."""
        return min(self.records.items(), key=lambda one: one[1].seconds, default=(BASE, PlaceRecord(math.inf)))

    def untried(self, contenders: int) -> list[int]:
        """The places of the contenders that are still to be tried."""
        tried = {place for place, record in self.records.items() if record.sure or record.seconds < math.inf}
        return [place for place in range(contenders) if place not in tried]

    def noted(self, place: int, record: PlaceRecord) -> Entry:
        """The entry after one more run. Of times that are equally sure the smallest counts, until one is slow twice; a
        failure that got no further than the one before is sure."""
        before = self.records.get(place, PlaceRecord(math.inf))
        if before.sure and RACE_AGAIN_RATIO * before.seconds < record.seconds:
            return Entry() if self.slow else replace(self, slow=True)
        again = before.seconds == record.seconds == math.inf and record.evaluations <= before.evaluations
        least = min(record.seconds, before.seconds) if before.sure == record.sure else record.seconds
        return Entry(self.records | {place: PlaceRecord(least, record.evaluations, record.sure or again)})


class Table(dict[Any, Entry]):
    """Entries by kind, the newest last."""

    _lock = threading.Lock()

    def put(self, key: Any, entry: Entry) -> None:
        """Replace an entry, which is the newest then."""
        with self._lock:
            self.pop(key, None)
            self[key] = entry
            if len(self) > KINDS_KEPT:
                del self[next(iter(self))]

    def __reduce__(self) -> tuple[type[Table], tuple[()]]:
        return Table, ()


def kind_of(problem: Problem, base: str) -> tuple[Any, ...]:
    """The key of a kind: what problems must share. `base`: the name of the way without a method."""
    f, s0 = without_derivatives(problem.f), problem.s0
    code = getattr(f, "__code__", None)  # of a function the place in its source, of an object the class
    name = type(f) if code is None else (code.co_filename, code.co_firstlineno, code.co_qualname)
    length = round(LENGTHS_PER_OCTAVE * math.log2(problem.length))
    return name, length, tuple(s0.shape), s0.dtype, s0.device.type, torch.get_num_threads(), base
