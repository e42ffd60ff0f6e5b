"""From counts to times: what a solve should take at least, and from which length on it should win.

    solve(T)   = launches * t_launch + iterations * bytes * T * batch / rate
    steps(T)   = T * t_step

Both are lines in T, so they meet once: at `launches * t_launch / (t_step - iterations * bytes * batch / rate)`.
"""

from __future__ import annotations

import math

from bench.forecast.counted import Count

RATES = {"H100": 3.0e12, "H200": 4.3e12}
"""Bytes per second, read and written, of a copy on the device, measured."""

LAUNCH_SECONDS = {"from Python": 5e-6, "as a CUDA graph": 1e-6}
"""Of one operation: what torch's dispatcher takes on the host, and what a device takes between nodes of a graph.
Estimates, of the size that is commonly reported."""

STEP_SECONDS = {"0.45 us": 0.45e-6, "1 us": 1e-6, "5 us": 5e-6}
"""Of one step in sequence: the fused kernel of the E88 report (H100, 2026: 7.38 ms for 16,384 steps), and what bounds
cuDNN from both sides, by estimate: its kernel that stays on the device, and one that synchronises the whole of it."""


def launches(count: Count) -> int:
    """Of a solve. The flag that stops it is read one iteration late."""
    return count.launches_once + (count.iterations + 1) * count.launches


def per_step(count: Count, batch: int, rate: float) -> float:
    """Seconds that each further time step adds to a solve."""
    return (count.iterations + 1) * count.bytes_a_step * batch / rate


def seconds(count: Count, length: int, batch: int, rate: float, launch: float) -> float:
    """A whole solve."""
    return launches(count) * launch + per_step(count, batch, rate) * length


def crossing(count: Count, batch: int, rate: float, launch: float, step: float) -> float:
    """The length from which on a solve is faster than steps; infinite where it never is."""
    gain = step - per_step(count, batch, rate)
    return launches(count) * launch / gain if gain > 0 else math.inf


def chunked(width: int, chunk: int, gates: int = 3) -> tuple[float, float]:
    """Bytes for a step of an iteration of the chunked form, and of the pass that writes the states.

    A thread block steps its own chunk from a guess of where it begins, weights in registers: it reads the
    pre-activations once, writes nothing but the affine map of the chunk (a matrix and a vector), and a scan over chunks
    corrects the guesses. States are written once, by the last pass.
    """
    maps = 3 * 4 * (width**2 + width) / chunk  # zeroed or written, scanned, read
    return 4 * gates * width + maps, 4 * (gates + 1) * width
