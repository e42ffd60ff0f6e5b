"""Whoever runs a row for a visit: a process of its own (`bench.gpu.worker`), or, in tests, this one."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.gpu.record import FAILED
from bench.gpu.stages.base import Where
from bench.gpu.worker import PATIENCE, Answer, answer

KILL_SECONDS = 10
"""That a killed process gets to be gone: one with a kernel that never ends may take the driver longer."""

WORDS_CHARACTERS = 1500
"""Of the log, in the error of a row whose process ended."""


class Runner(Protocol):
    """Whoever runs a row: see `Worker` and `InProcess`."""

    def run(self, stage: str, row: str, seconds: float) -> Answer:
        """What becomes of the row, as `Record` keeps it, within so many seconds."""
        ...

    def close(self) -> None:
        """No more rows."""
        ...


class InProcess:
    """Rows run in this process: for tests on a CPU."""

    def __init__(self, where: Where) -> None:
        self.where = where

    def run(self, stage: str, row: str, seconds: float) -> Answer:
        del seconds
        return answer(stage, row, self.where)

    def close(self) -> None:
        pass


class Worker:
    """Rows run in a process that is started anew where it died or was killed.

    Args:
        command: starts a worker.
        log: takes what it prints.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = list(command), log
        self.process: subprocess.Popen[str] | None = None
        self.listener: threading.Thread | None = None
        self.lines: queue.Queue[str] = queue.Queue()
        self.said = 0

    def run(self, stage: str, row: str, seconds: float) -> Answer:
        process = self._running()
        assert process.stdin is not None
        self.said = self.log.stat().st_size  # bytes of rows before this one
        try:
            look = time.time() + PATIENCE * seconds  # the process may still be starting
            process.stdin.write(json.dumps({"stage": stage, "row": row, "look": look}) + "\n")
            process.stdin.flush()
            found = json.loads(self.lines.get(timeout=seconds))
        except queue.Empty:
            return self._ended(f"no end after {seconds:.0f} s; its process was killed")
        except (OSError, json.JSONDecodeError):  # an empty line, or half of one: it is ending
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_SECONDS)
            return self._ended(f"its process ended with {process.poll()}")
        if found.get("device_lost"):  # the next row wants a fresh process
            self.close()
        return found

    def _ended(self, line: str) -> Answer:
        self.close()
        words = self.log.read_bytes()[self.said :].decode(errors="replace")[-WORDS_CHARACTERS:]
        return {"state": FAILED, "error": f"{line}: ... {words}", "line": line}

    def _running(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.lines = queue.Queue()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        self.listener = threading.Thread(target=_listen, args=(self.process, self.lines), daemon=True)
        self.listener.start()
        return self.process

    def close(self) -> None:
        """Kill it with all that it started."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_SECONDS)
            assert self.listener is not None
            self.listener.join(1)
            for pipe in process.stdin, process.stdout:
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()


def _listen(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on what a worker says; an empty line when it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")
