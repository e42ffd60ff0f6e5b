"""The tables of `docs/background/time-sharding.md`, from what `python -m bench.mesh` has found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from bench.common.pages import markdown
from bench.mesh.forecast import BATCH_LENGTH, FLEETS, LENGTHS, WIDTH, Forecast, batches, crossing, forecasts
from bench.mesh.model import Costs
from bench.mesh.work import Work

COMMAND = "python -m bench.mesh"

SHOWN_WIDTH = 16
"""Of the counts that are shown."""

STEP_SECONDS = 1e-6
"""Of a step in sequence, by a fused kernel: see `bench.forecast.model`."""


def works(results: dict[str, Any]) -> dict[tuple[str, int, bool], Work]:
    """What an iteration computes, by kind, width, and whether a rank of a mesh computes it."""
    return {(row["kind"], row["width"], row["shares"]): Work(**row["work"]) for row in results["work"]}


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    machine, found = results["machine"], works(results)
    where = f"{machine['device']}, a thread a rank, torch {machine['torch']}, gloo, float32, one sequence."
    parts = [
        f"### Bytes of an iteration\n\nTwo sequences, D = {SHOWN_WIDTH}: frontier, map and state.",
        counts(results["counts"]),
        sockets(results["counts"]),
        f"### Time of an iteration\n\n{where}",
        times(results["rows"], found, results["cores"]),
        fitted(results["fit"]),
        f"### On GPUs\n\nMilliseconds of an iteration, one sequence, D = {WIDTH}; in brackets how many times as fast "
        "as one GPU; \\* does not fit without a window. In fewer iterations than the last column says, the fastest "
        "beats a loop over time that takes 1 us a step. *Full matrices:*",
        expected("Newton, dense", found),
        "*A diagonal:*",
        expected("QuasiNewton", found),
        "### From which T on it beats one GPU",
        crossings(found),
        f"### Beside a batch\n\nHow many times as fast as whole sequences on each of the same P GPUs, T = "
        f"{BATCH_LENGTH:,}. *No*: it is not faster.",
        beside(found),
    ]
    return "\n\n".join(part.strip() for part in parts)


def _figures(x: float, digits: int = 2) -> str:
    """A number of so many digits, without an exponent."""
    places = digits - 1 - math.floor(math.log10(x)) if x else 0
    return f"{round(x, places):,.{max(0, places)}f}"


def counts(rows: Sequence[dict[str, Any]]) -> str:
    """Formula and counts, of the first rank, which is no last one where there are several."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row["rank"] == 0 and row["width"] == SHOWN_WIDTH:
            line = lines.setdefault(row["kind"], [row["kind"], _sum(row["formula"])])
            line.append(_sum([*row["gathers"], row["passed"]]))
    return markdown(["method", "formula", "P = 1", "P = 2", "P = 4"], list(lines.values()))


def _sum(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size:,}" for size in sizes)


def sockets(rows: Sequence[dict[str, Any]]) -> str:
    """What Linux counted in the sockets, in a sentence."""
    several = [row for row in rows if row["ranks"] > 1]
    each = statistics.median(row["headers"] / (row["ranks"] - 1) for row in several)
    off = max(abs(row["sockets"] / (row["in_sockets"] + 48 * each * (row["ranks"] - 1)) - 1) for row in several)
    return (
        f"In its sockets a rank wrote the formula's bytes, each all-gather P - 1 times, and {each:.3g} (P - 1) headers "
        f"of gloo's, 48 bytes each; no rank was more than {100 * off:.1f} % off.\n"
    )


def times(rows: Sequence[dict[str, Any]], found: dict[tuple[str, int, bool], Work], cores: int) -> str:
    """Measured milliseconds at the longest T of each kind and width, and a sentence on the best."""
    lines, gains = [], []
    for kind, width in dict.fromkeys((row["kind"], row["width"]) for row in rows):
        here = [row for row in rows if (row["kind"], row["width"]) == (kind, width)]
        longest = max(row["length"] for row in here)
        ms = {row["ranks"]: 1e3 * row["seconds"] for row in here if row["length"] == longest}
        alone, shared = (found[kind, width, shares].moved(1) for shares in (False, True))
        lines.append(
            [kind, str(width), f"{longest:,}", *(_figures(ms[ranks]) for ranks in sorted(ms)),
             f"{alone:,.0f} / {shared:,.0f}"]
        )  # fmt: skip
        gains.append((ms[0] / ms[2], f"{kind}, D = {width}"))
    gain, case = max(gains)
    head = ["method", "D", "T", "no mesh (ms)", "P = 1", "P = 2", "P = 4", "bytes a step, no mesh / mesh"]
    return markdown(head, lines) + (
        f"\nThis machine has {cores} cores, so four ranks share them. The best of two ranks is {_figures(gain)} times "
        f"as fast as one process without a mesh ({case}).\n"
    )


def fitted(fit: dict[str, Any]) -> str:
    """The costs and how far the model is off."""
    costs = Costs(**fit["costs"])
    rate = f"{_figures(1e-9 / costs.memory)} GB/s" if costs.memory else "free"
    compute = f"{_figures(1e-9 / costs.flop)} GFLOP/s" if costs.flop else "free"
    link = f"{_figures(1e-6 / costs.link)} MB/s" if costs.link else "free, beside the hops"
    words = (
        f"Fitted: {_figures(1e6 * costs.launch)} us an operation, memory {rate}, products {compute}, "
        f"{_figures(1e6 * costs.hop)} us a hop, links {link}."
    )
    names = {
        "fitted": "fitted to", "lengths": "lengths left out of the fit",
        "ranks": "four ranks, fitted to fewer",
    }  # fmt: skip
    lines = [
        [names[key], str(check["rows"]), f"{100 * check['median']:.0f} %", f"{100 * check['largest']:.0f} %"]
        for key, check in fit["checks"].items()
    ]
    return words + "\n\n" + markdown(["model against measurement", "rows", "median error", "largest"], lines)


def expected(kind: str, found: dict[tuple[str, int, bool], Work]) -> str:
    """Milliseconds on GPUs, and within how many iterations that is faster than steps in sequence."""
    head = ["T", "1 GPU", *(fleet.name for fleet in FLEETS), "iterations"]
    lines = []
    for length in LENGTHS:
        alone, *rest = forecasts(kind, length, found)
        best = min(one.seconds for one in (alone, *rest))
        lines.append(
            [f"{length:,}", _ms(alone), *(f"{_ms(one)} ({_figures(alone.seconds / one.seconds)})" for one in rest),
             _figures(length * STEP_SECONDS / best)]
        )  # fmt: skip
    return markdown(head, lines)


def _ms(one: Forecast) -> str:
    return _figures(1e3 * one.seconds) + ("" if one.fits else " \\*")


def crossings(found: dict[tuple[str, int, bool], Work]) -> str:
    """Shortest lengths that gain."""
    lines = [
        [fleet.name, *(_length(crossing(kind, fleet, found)) for kind in ("Newton, dense", "QuasiNewton"))]
        for fleet in FLEETS
    ]
    return markdown(["GPUs", "full matrices", "a diagonal"], lines)


def _length(length: float) -> str:
    return "never" if math.isinf(length) else _figures(length)


def beside(found: dict[tuple[str, int, bool], Work]) -> str:
    """Gains over a batch that is spread over the GPUs."""
    lines = []
    for words, gains in batches(found):
        lines.append([words, *(_figures(gain) if gain > 1 else "no" for gain in gains)])
    head = ["sequences", *(f"{kind}, {fleet.name}" for kind in ("full", "diagonal") for fleet in FLEETS[1:4])]
    return markdown(head, lines)
