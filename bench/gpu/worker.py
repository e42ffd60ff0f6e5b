"""Runs rows in a process of its own, which can be killed: a kernel that waits for ever takes its process with it.

The worker reads one row from each line of its input, `{"stage": ..., "row": ...}`, and answers with one line, the
figures or the error. An error after which the device does not answer any more ends the worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.gpu.record import DONE, FAILED, SKIPPED
from bench.gpu.stages.base import NotHere, Where

Answer = dict[str, Any]

OWN = "lds_iter", "bench", "recipes"
"""Packages that must be there."""


class Runner(Protocol):
    """Whoever runs a row: see `Worker` and `InProcess`."""

    def run(self, stage: str, row: str, seconds: float) -> Answer:
        """What becomes of the row, as `Record` keeps it, within so many seconds."""
        ...

    def close(self) -> None:
        """No more rows."""
        ...


def answer(stage: str, row: str, where: Where) -> Answer:
    """Run one row here, without TF32, whatever it raises."""
    from bench.common.machine import full_precision
    from bench.gpu.stages import rows_of

    full_precision()  # else torch's own layers are 1e-3 off, and fail their gates
    begin = time.perf_counter()
    try:
        found = rows_of(stage, where)[row]()
        return {"state": DONE, "seconds": time.perf_counter() - begin, **found}
    except NotHere as reason:
        return {"state": SKIPPED, "reason": str(reason)}
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in OWN:
            return {"state": FAILED, "error": str(missing)}
        return {"state": SKIPPED, "reason": f"needs {missing.name}, which is not installed"}
    except Exception as raised:  # of any kind: it is the row's outcome
        frames = "".join(traceback.format_exception(raised)[-4:])
        return {"state": FAILED, "seconds": time.perf_counter() - begin, "error": frames}
    finally:
        gc.collect()


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

    def run(self, stage: str, row: str, seconds: float) -> Answer:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"stage": stage, "row": row}) + "\n")
            process.stdin.flush()
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return {"state": FAILED, "error": f"no end after {seconds:.0f} s; its process was killed"}
        except OSError:
            line = ""
        if not line:
            code = process.wait(10)
            self.close()
            return {"state": FAILED, "error": f"its process ended with {code}: ... {self._last_words()}"}
        found = json.loads(line)
        if found.get("device_lost"):  # the next row wants a fresh process
            self.close()
        return found

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

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""

    def close(self) -> None:
        """Kill it with all that it started."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert self.listener is not None
            self.listener.join(10)
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


def alive(device: str) -> bool:
    """Whether the device still answers."""
    import torch

    if torch.device(device).type != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def main(device: str, tiny: str) -> None:
    """Answer rows until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a row prints goes to the log
    where = Where(device, tiny == "tiny")
    for line in sys.stdin:
        asked = json.loads(line)
        found = answer(asked["stage"], asked["row"], where)
        lost = not alive(device)
        print(json.dumps({**found, "device_lost": True} if lost else found), file=answers, flush=True)
        if lost:
            os._exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
