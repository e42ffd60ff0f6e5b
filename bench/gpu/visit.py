"""One visit: stages in the order of their value, each with a share of the time, and rows until it is used up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.gpu.record import DONE, FAILED, SKIPPED, Record, outcome
from bench.gpu.stages.base import Stage, Where
from bench.gpu.worker import Answer, Runner

LONGEST_ROW, SHORTEST_ROW = 75.0, 20.0
"""Seconds that a row gets at most before it is given up, and at least: kernels compile in the first ones."""

NO_TIME = "no time was left"


@dataclass
class Clock:
    """Seconds since the beginning of the visit, and how many there are."""

    seconds: float
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.begin = self.now()

    @property
    def left(self) -> float:
        return self.seconds - (self.now() - self.begin)


@dataclass
class Visit:
    """What all stages share.

    Attributes:
        where: where rows run.
        start: starts a runner.
        record: what is known.
        clock: what time is left.
        say: tells who watches.
        workers: runners at once, at most.
    """

    where: Where
    start: Callable[[], Runner]
    record: Record
    clock: Clock
    say: Callable[[str], None]
    workers: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what the record does not have yet, and write down every row at once.

        Time that a stage leaves goes to those after it. Rows without time are written down as skipped; once all stages
        had their turn, what is left of the time goes to them, and then to rows that failed in a former visit.
        """
        failed = [
            (stage, row) for stage in stages for row in stage.rows(self.where)
            if self.record.state(stage.name, row) == FAILED
        ]  # fmt: skip
        for number, stage in enumerate(stages):
            share = stage.seconds / sum(later.seconds for later in stages[number:])
            known = DONE, FAILED
            rows = [row for row in stage.rows(self.where) if self.record.state(stage.name, row) not in known]
            self._rows(stage, rows, self.clock.left * (1 - share))
        for stage, row in [*self._without_time(stages), *failed]:
            self._rows(stage, [row], 0)

    def _rows(self, stage: Stage, rows: Sequence[str], reserved: float) -> None:
        """Rows of a stage, while more time is left than is reserved for others."""
        waiting, runners = deque(rows), min(stage.workers, self.workers, len(rows))
        threads = [threading.Thread(target=self._work, args=(stage, waiting, reserved)) for _ in range(runners - 1)]
        for thread in threads:
            thread.start()
        if rows:
            self._work(stage, waiting, reserved)
        for thread in threads:
            thread.join()

    def _work(self, stage: Stage, waiting: deque[str], reserved: float) -> None:
        """One runner's share of the rows."""
        runner = self.start()
        while waiting:
            try:
                row = waiting.popleft()
            except IndexError:  # another runner took the last one
                break
            left = self.clock.left
            if left <= reserved:
                if not self.record.state(stage.name, row):
                    self._put(stage.name, row, {"state": SKIPPED, "reason": NO_TIME})
                continue
            found = runner.run(stage.name, row, min(LONGEST_ROW, max(SHORTEST_ROW, left)))
            self._put(stage.name, row, found)
        runner.close()

    def _put(self, stage: str, row: str, found: Answer) -> None:
        with self.lock:
            self.record.put(stage, row, found)
            self.say(f"{self.clock.seconds - self.clock.left:4.0f} s  {stage}: {row}: {outcome(found)}")

    def _without_time(self, stages: Sequence[Stage]) -> Iterator[tuple[Stage, str]]:
        for stage in stages:
            for row in stage.rows(self.where):
                if self.record.stages.get(stage.name, {}).get(row, {}).get("reason") == NO_TIME:
                    yield stage, row
