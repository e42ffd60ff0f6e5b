"""A row of the tables: one problem, every peer that runs here, checked against the reference before it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import metadata
from typing import Any

from torch import Tensor

from bench.common.timing import First, alternately, first_run_on, waiting
from bench.peers.base import AbstractPeer, Prepared

ROUNDS = 5

LONG = 3.0
"""Seconds from which a run is not repeated."""


def version(package: str) -> str:
    """Of a distribution; a checkout that runs where it lies has none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference of the states, and the largest relative one of a gradient (0 without gradients)."""
    pairs = zip(found[1:], exact[1:], strict=True)
    worst = max((float((a - b).norm() / b.norm()) for a, b in pairs), default=0.0)
    return float((found[0] - exact[0]).abs().max()), worst


def attempt(peer: AbstractPeer[Any], problem: Any, exact: Sequence[Tensor]) -> tuple[dict[str, Any], Any]:
    """A peer's outcome before any timing, and what is to be timed: its first run and the evaluation, or None.

    A peer that cannot run, raises or fails the gate keeps its row, with the reason and without a time.
    """
    reason = peer.available(problem)
    if reason:
        return {"peer": peer.name, "state": reason}, None
    try:
        prepared = peer.prepare(problem)
        first = first_run_on(prepared.run, problem.device)
        error, gradient_error = errors(prepared.read(first.result), exact)
    except Exception as raised:  # another library's, of any kind: it is its row's outcome
        return {"peer": peer.name, "state": f"raised {type(raised).__name__}: {str(raised).splitlines()[0][:80]}"}, None
    passes = error < problem.gate and gradient_error < getattr(problem, "gradient_gate", 1)
    row = {
        "peer": peer.name,
        "package": f"{peer.package} {version(peer.package)}",
        "state": "timed" if passes else "failed the gate",
        "error": error,
        "gradient_error": gradient_error if len(exact) > 1 else None,
        "iterations": prepared.iterations(),
        "first_s": first.seconds,
        "peak_mib": first.peak_mib,
    }
    return row, (first, prepared) if passes else None


def measure(
    problem: Any, peers: Sequence[AbstractPeer[Any]], *, rounds: int = ROUNDS, long: float = LONG
) -> dict[str, Any]:
    """All peers on one problem, in turns; `times` says how many times faster a peer is than the first of `peers`."""
    exact = problem.reference()
    rows, kept = [], {}
    for peer in peers:
        row, ready = attempt(peer, problem, exact)
        rows.append(row)
        if ready is not None:
            kept[peer.name] = ready
    _time(rows, kept, problem.device, rounds, long)
    values = {field.name: getattr(problem, field.name) for field in fields(problem)}
    shape = {name: value.__name__ if isinstance(value, type) else value for name, value in values.items()}
    return {"problem": type(problem).__name__, **shape, "rows": rows}


def _time(
    rows: list[dict[str, Any]], kept: dict[str, tuple[First, Prepared]], device: str, rounds: int, long: float
) -> None:
    """Fill in medians. Where a first run compiles, or is short, a second one says how long a run is."""
    runs = {name: waiting(prepared.run, device) for name, (_, prepared) in kept.items()}
    seconds = {
        name: first_run_on(runs[name], device).seconds if prepared.compiles or first.seconds < long else first.seconds
        for name, (first, prepared) in kept.items()
    }
    timings = alternately(runs, seconds, rounds, long=long)
    by_name = {row["peer"]: row for row in rows}
    for name, timing in timings.items():
        by_name[name] |= {"ms": timing.ms, "rounds": timing.rounds}
    ours = rows[0].get("ms")
    for row in rows:
        if ours is not None and "ms" in row:
            row["times"] = ours / row["ms"]
