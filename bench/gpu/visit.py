"""One visit: stages in the order of their value, each with a share of the time, and rows until it is used up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.gpu.record import DONE, FAILED, SKIPPED, Record, outcome
from bench.gpu.runner import Runner
from bench.gpu.stages.base import Stage, Where
from bench.gpu.worker import Answer

LONGEST_ROW, SHORTEST_ROW = 75.0, 20.0
"""Seconds that a row gets at most before it is given up, and at least: kernels compile in the first ones."""

FIRST_SHARE = 0.25
"""Of the time, for the first row of every stage: whatever happens later, something is known of everything."""

NO_TIME, CUT_OFF = "no time was left", "the visit ended while it ran"
NO_ROWS = "its list of rows"


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
    names: dict[str, list[str]] = field(default_factory=dict)
    ran: set[tuple[str, str]] = field(default_factory=set)
    alone: list[Runner] = field(default_factory=list)
    over: bool = False

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what the record does not have yet, and write down every row at once.

        The first row of every stage comes first, then the stages one by one. Time that a stage leaves goes to those
        after it. Rows without time are written down as skipped; once all stages had their turn, what is left of the
        time goes to them, and then to rows that failed in a former visit.
        """
        self.names = {stage.name: self._named(stage) for stage in stages}
        failed = {stage.name: [row for row in self.names[stage.name] if self._state(stage, row) == FAILED]
                  for stage in stages}  # fmt: skip
        try:
            for stage in stages:
                self._rows(stage, self._waiting(stage)[:1], self.clock.seconds * (1 - FIRST_SHARE))
            for number, stage in enumerate(stages):
                share = stage.seconds / sum(later.seconds for later in stages[number:])
                self._rows(stage, self._waiting(stage), self.clock.left * (1 - share))
            for stage in stages:
                self._rows(stage, self._waiting(stage), 0)
            for stage in stages:
                self._rows(stage, failed[stage.name], 0)
        finally:
            self._close()

    def _named(self, stage: Stage) -> list[str]:
        """The rows of a stage; one that cannot say them costs itself alone."""
        try:
            return list(stage.rows(self.where))
        except Exception as raised:  # of any kind: the other stages have rows
            self._put(stage.name, NO_ROWS, {"state": FAILED, "error": f"{type(raised).__name__}: {raised}"})
            return []

    def _state(self, stage: Stage, row: str) -> str:
        return self.record.state(stage.name, row)

    def _waiting(self, stage: Stage) -> list[str]:
        """Rows that no visit has run; what a former one skipped may be possible now."""
        return [row for row in self.names[stage.name]
                if (stage.name, row) not in self.ran and self._state(stage, row) not in (DONE, FAILED)]  # fmt: skip

    def _rows(self, stage: Stage, rows: Sequence[str], reserved: float) -> None:
        """Rows of a stage, while more time is left than is reserved for others.

        Stages of one runner share it, for a start takes seconds; where several rows run at once nothing is timed, and
        what they leave in their processes must not reach those that are.
        """
        if not rows:
            return
        if stage.workers == 1:
            self.alone = self.alone or [self.start()]
            self._work(self.alone[0], stage, deque(rows), reserved)
            return
        self._close()
        waiting, runners = deque(rows), [self.start() for _ in range(min(stage.workers, self.workers, len(rows)))]
        threads = [threading.Thread(target=self._work, args=(runner, stage, waiting, reserved), daemon=True)
                   for runner in runners]  # fmt: skip
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: what runners say from now on is that they were closed
            self.over = True
            raise
        finally:
            for runner in runners:
                runner.close()

    def _work(self, runner: Runner, stage: Stage, waiting: deque[str], reserved: float) -> None:
        """One runner's share of the rows."""
        while waiting and not self.over:
            try:
                row = waiting.popleft()
            except IndexError:  # another runner took the last one
                break
            left = self.clock.left
            if left > reserved:
                found = self._found(runner, stage, row, min(LONGEST_ROW, max(SHORTEST_ROW, left)))
                if not self.over:
                    self._put(stage.name, row, found)
            elif not self._state(stage, row):
                self._put(stage.name, row, {"state": SKIPPED, "reason": NO_TIME})

    def _found(self, runner: Runner, stage: Stage, row: str, seconds: float) -> Answer:
        """What became of a row, which counts as failed meanwhile: it may take the machine with it."""
        self.ran.add((stage.name, row))
        self._keep(stage.name, row, {"state": FAILED, "error": CUT_OFF})
        try:
            return runner.run(stage.name, row, seconds)
        except Exception as raised:  # no process could be started, say: the other rows may have more luck
            return {"state": FAILED, "error": f"{type(raised).__name__}: {raised}"}

    def _put(self, stage: str, row: str, found: Answer) -> None:
        self._keep(stage, row, found)
        with self.lock:
            self.say(f"{self.clock.seconds - self.clock.left:4.0f} s  {stage}: {row}: {outcome(found)}")

    def _keep(self, stage: str, row: str, found: Answer) -> None:
        with self.lock:
            try:
                self.record.put(stage, row, found)
            except OSError as full:  # what is printed may be all that remains
                self.say(f"{self.record.file} could not be written: {full}")

    def _close(self) -> None:
        for runner in self.alone:
            runner.close()
        self.alone = []
