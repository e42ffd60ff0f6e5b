"""Times by turns and peak memory, in one process."""

from __future__ import annotations

import ctypes
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LONG = 0.3
"""Seconds from which a first run is the figure: repeating it would cost more than the noise is worth."""


@dataclass(frozen=True)
class First:
    """A first run: the one that the correctness gate looks at, and a warm-up.

    Attributes:
        seconds: wall time.
        peak_mib: by how much memory grew at most during the run: the process's resident memory, or on a GPU what
            torch has allocated there; None where the system does not tell.
    """

    result: Any
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True)
class Timing:
    """The median of the runs, in milliseconds, and how many there were; one run is the first one."""

    ms: float
    rounds: int


def _status(name: str) -> float:
    """A line of `/proc/self/status`, in MiB."""
    found = re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def first_run(run: Callable[[], Any]) -> First:
    """Run once, timed, with its peak memory beyond what the process held before.

    Freed memory is given back first, and the kernel's high-water mark reset, so that the figure belongs to this run.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):  # not Linux with glibc, or not permitted
        before = None
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return First(result, seconds, None if before is None else max(0.0, _status("VmHWM") - before))


def waiting(run: Callable[[], Any], device: str | torch.device) -> Callable[[], Any]:
    """`run`, returning only when the device has done what it queued; on a CPU it has."""
    if torch.device(device).type != "cuda":
        return run

    def waited() -> Any:
        result = run()
        torch.cuda.synchronize(device)
        return result

    return waited


def first_run_on(run: Callable[[], Any], device: str | torch.device) -> First:
    """`first_run` of what `waiting` returns, with the memory of the device that it runs on."""
    if torch.device(device).type != "cuda":
        return first_run(run)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    result = waiting(run, device)()
    seconds = time.perf_counter() - start
    return First(result, seconds, (torch.cuda.max_memory_allocated(device) - before) / 2**20)


def alternately(
    runs: Mapping[str, Callable[[], Any]], first: Mapping[str, float], rounds: int, *, long: float = LONG
) -> dict[str, Timing]:
    """Time the contenders in turns; who took `long` seconds or more the first time does not run again.

    Every round has an order of its own (the same ones in every process): whoever ran just before leaves its traces in
    caches and in memory, which took up to half of a short run's time where the order was fixed.

    Args:
        runs: the contenders, by name.
        first: the seconds of their first runs.
        rounds: turns of each.
        long: see above.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs if first[name] < long}
    order, chance = list(seconds.items()), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name, taken in order:
            start = time.perf_counter()
            runs[name]()
            taken.append(time.perf_counter() - start)
    return {
        name: Timing(1e3 * statistics.median(seconds[name]), rounds)
        if seconds.get(name)
        else Timing(1e3 * first[name], 1)
        for name in runs
    }


def mib(peak: float | None) -> str:
    """A peak for a table."""
    return "" if peak is None else f"{peak:.0f}" if peak >= 1 else "<1"
