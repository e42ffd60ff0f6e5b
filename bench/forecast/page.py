"""The tables of `docs/background/forecast.md`, from what `python -m bench.forecast` counts."""

from __future__ import annotations

import math
from typing import Any

from bench.common.pages import markdown
from bench.forecast.counted import Count
from bench.forecast.model import LAUNCH_SECONDS, RATES, STEP_SECONDS, chunked, crossing, launches, per_step, seconds

COMMAND = "python -m bench.forecast"

BATCHES = 1, 16
LENGTH = 100_000
CHUNKED_ITERATIONS = 4
"""Newton's on GRUs as initialised; whole chunks, which the chunked form corrects, need no more."""


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    counts = [Count(**row) for row in results["counts"]]
    return "\n\n".join(
        [
            f"Iterations are those at T = {results['length']:,}.",
            counted(counts),
            f"### Expected times at T = {LENGTH:,}",
            expected(counts),
            "### From which T on parallel evaluation should win",
            "On an H100, against steps of so many microseconds, launched from Python, and in brackets as a CUDA graph.",
            crossings(counts),
            "### The chunked form",
            chunks([count for count in counts if count.cell == "GRU"]),
        ]
    )


def counted(counts: list[Count]) -> str:
    """What the forecasts rest on."""
    head = ["cell", "D", "bytes for a step of an iteration", "iterations", "launches of an iteration",
            "launches of a solve"]  # fmt: skip
    return markdown(
        head,
        [
            [count.cell, str(count.width), f"{count.bytes_a_step:,.0f}", str(count.iterations), str(count.launches),
             str(launches(count))]
            for count in counts
        ],
    )  # fmt: skip


def expected(counts: list[Count]) -> str:
    """Milliseconds of a solve: memory alone, and with launches."""
    python, graph = LAUNCH_SECONDS.values()
    head = ["cell", "D", "batch"]
    for name in RATES:
        head += [f"{name}, memory (ms)", f"{name}, from Python (ms)", f"{name}, as a graph (ms)"]
    head += [f"{name} a step (ms)" for name in STEP_SECONDS]
    lines = []
    for count in counts:
        for batch in BATCHES:
            line = [count.cell, str(count.width), str(batch)]
            for rate in RATES.values():
                times = per_step(count, batch, rate) * LENGTH, *(
                    seconds(count, LENGTH, batch, rate, launch) for launch in (python, graph)
                )  # fmt: skip
                line += [f"{1e3 * time:.2g}" for time in times]
            lines.append(line + [f"{1e3 * LENGTH * step:.3g}" for step in STEP_SECONDS.values()])
    return markdown(head, lines)


def crossings(counts: list[Count]) -> str:
    """Lengths at which both take the same."""
    rate = RATES["H100"]
    lines = [
        [count.cell, str(count.width), str(batch),
         *(_lengths([crossing(count, batch, rate, launch, step) for launch in LAUNCH_SECONDS.values()])
           for step in STEP_SECONDS.values())]
        for count in counts for batch in BATCHES
    ]  # fmt: skip
    return markdown(["cell", "D", "batch", *STEP_SECONDS], lines)


def _lengths(found: list[float]) -> str:
    python, graph = ("never" if math.isinf(length) else f"{length:,.0f}" for length in found)
    return f"{python} ({graph})"


def chunks(counts: list[Count]) -> str:
    """Bytes of the chunked form beside those of today's, at two lengths of a chunk."""
    head = ["D", "steps of a chunk", "bytes for a step of an iteration, today", "chunked", "ratio",
            "bytes for a step of a solve, today", "chunked, with the last pass", "ratio of solves"]  # fmt: skip
    lines = []
    for count in counts:
        for chunk in 64, 512:
            one, last = chunked(count.width, chunk)
            now, then = (count.iterations + 1) * count.bytes_a_step, CHUNKED_ITERATIONS * one + last
            lines.append(
                [str(count.width), str(chunk), f"{count.bytes_a_step:,.0f}", f"{one:,.0f}",
                 f"{one / count.bytes_a_step:.2f}", f"{now:,.0f}", f"{then:,.0f}", f"{then / now:.2f}"]
            )  # fmt: skip
    return markdown(head, lines)
