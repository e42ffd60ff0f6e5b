"""Runs rows in a process of its own, which can be killed: a kernel that waits for ever takes its process with it.

It reads one row from each line of its input, `{"stage": ..., "row": ..., "look": ...}`, and answers with one line,
the figures or the error. An error after which the device does not answer any more ends it. Where a row is about to be
given up, or the process dies of a signal, its log says where every thread was. `bench.gpu.runner` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from bench.gpu.record import DONE, FAILED, SKIPPED, outcome
from bench.gpu.stages.base import NotHere, Where

Answer = dict[str, Any]

OWN = "lds_iter", "bench", "recipes"
"""Packages that must be there."""

PATIENCE = 0.9
"""The part of a row's time, a start of the process included, after which the log says where it is."""

DIES_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux's `prctl`."""


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
        first = str(raised).strip().partition("\n")[0]  # torch's end with hints for any error of CUDA
        line = f"{type(raised).__name__}: {first}"
        return {"state": FAILED, "seconds": time.perf_counter() - begin, "error": frames, "line": line}
    finally:
        gc.collect()


def loss(device: str) -> str:
    """Why the device does not answer any more; empty while it does."""
    import torch

    if torch.device(device).type != "cuda":
        return ""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as raised:
        return str(raised).partition("\n")[0]
    return ""


def after(found: Answer, lost: str) -> Answer:
    """A row after which the device was lost: it has failed, whatever it found, for its kernels may have run on."""
    line = f"the device was lost: {lost}"
    error = f"{found.get('error') or outcome(found)}\n{line}"
    return {**found, "state": FAILED, "error": error, "line": f"{found.get('line', '')}; {line}", "device_lost": True}


def main(device: str, tiny: str) -> None:
    """Answer rows until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a row prints goes to the log
    faulthandler.enable()
    with contextlib.suppress(AttributeError):  # elsewhere than on Linux its input ends, which it sees after its row
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    where = Where(device, tiny == "tiny")
    for line in sys.stdin:
        asked = json.loads(line)
        faulthandler.dump_traceback_later(max(0.1, asked["look"] - time.time()))
        found = answer(asked["stage"], asked["row"], where)
        lost = loss(device)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(after(found, lost) if lost else found), file=answers, flush=True)
        if lost:
            os._exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
