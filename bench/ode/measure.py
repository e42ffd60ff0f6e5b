"""Times, memory, iterations and errors of all solvers on one case after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import alternately, first_run
from bench.ode.cases import Case
from bench.ode.methods import ENTRIES, OURS, Entry

ROUNDS = 5
"""Turns of the solvers that take less than `bench.common.timing.LONG`."""

WARM_UP_STEPS = 200
"""Steps before the clock runs, for compilers and caches."""


@dataclass(frozen=True)
class Row:
    """One solver on one case.

    Attributes:
        case: its key.
        forward, both: milliseconds without and with gradients; None where it was not measured.
        peak_mib: by how much memory grew going forward.
        error: the largest difference to the case's reference.
        iterations: ours alone.
    """

    case: str
    problem: str
    steps: int
    batch: int
    solver: str
    forward: float
    both: float | None
    peak_mib: float | None
    error: float
    iterations: int | None


@dataclass(frozen=True)
class Skipped:
    """A case that a solver was not measured on, or not with gradients, and why."""

    case: str
    solver: str
    reason: str


class Watch:
    """What is left of the time."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def is_up(self) -> bool:
        return time.monotonic() > self._end


def measure(cases: Sequence[Case], done: Mapping[str, Any], watch: Watch) -> Iterator[list[Row] | list[Skipped]]:
    """The rows of one case after the other, and what was left out; a case in `done` is not measured again."""
    for case in cases:
        if case.key in done:
            continue
        if watch.is_up:
            yield [Skipped(case.key, "all", "time was up; run the command again")]
        else:
            rows, skipped = _case(case)
            yield skipped
            yield rows


def _case(case: Case) -> tuple[list[Row], list[Skipped]]:
    """The solvers on one case: a first run each, then turns of the short ones."""
    entries = [entry for entry in ENTRIES if not entry.only or case.name in entry.only]
    skipped = [
        Skipped(case.key, entry.name + (", with gradients" if back else ""), reason)
        for entry in entries
        for back in (False, True)
        if (reason := entry.left_out(case, back=back)) is not None
        and (not back or not entry.left_out(case, back=False))
    ]
    runs = {entry.name: entry for entry in entries if entry.left_out(case, back=False) is None}
    exact, rows, first = case.reference(), {}, {}
    for name, entry in runs.items():
        rows[name], first[name], first[name + _BACK] = _first(entry, case, exact)
    actions = {name: _forward(entry, case) for name, entry in runs.items()}
    backs = {name + _BACK: _both(entry, case) for name, entry in runs.items() if rows[name].both is not None}
    times = alternately({**actions, **backs}, first, ROUNDS)
    return [
        Row(
            **{
                **asdict(row),
                "forward": times[name].ms,
                "both": times[name + _BACK].ms if name + _BACK in times else None,
            }
        )
        for name, row in rows.items()
    ], skipped


_BACK = " with gradients"


def _forward(entry: Entry, case: Case) -> Callable[[], Tensor]:
    y0, t = case.start(), case.times()

    def run() -> Tensor:
        with torch.no_grad():
            return entry.solve(case.func, y0, t)

    return run


def _both(entry: Entry, case: Case) -> Callable[[], None]:
    y0, t = case.start().clone().requires_grad_(), case.times()
    return lambda: entry.solve(case.func, y0, t).square().mean().backward()


def _first(entry: Entry, case: Case, exact: Tensor) -> tuple[Row, float, float]:
    """The row of the first runs, and their seconds."""
    short = Case(case.name, case.func, case.end * WARM_UP_STEPS / case.steps, WARM_UP_STEPS, case.batch)
    _forward(entry, short)()
    forward = first_run(_forward(entry, case))
    iterations = None
    if entry.name == OURS:
        with torch.no_grad():
            iterations = int(li.ode.integrate(case.func, case.start(), case.times()).solution.iterations.max())
    both = None
    if entry.left_out(case, back=True) is None:
        _both(entry, short)()
        both = first_run(_both(entry, case)).seconds
    error = float((forward.result - exact).abs().max())
    row = Row(
        case.key, case.name, case.steps, case.batch, entry.name, 1e3 * forward.seconds,
        None if both is None else 1e3 * both, forward.peak_mib, error, iterations,
    )  # fmt: skip
    return row, forward.seconds, both or 0.0
