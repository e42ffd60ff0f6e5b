"""The report of a visit, and `docs/background/gpu.md` from what is kept of all visits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.common.pages import markdown
from bench.gpu.record import FAILED, outcome
from bench.gpu.stages import STAGES
from bench.gpu.stages.base import Where

COMMAND = "python -m bench.gpu"

Stages = dict[str, dict[str, dict[str, Any]]]


def counts(rows: Mapping[Any, dict[str, Any]]) -> str:
    """How many rows ended how."""
    return ", ".join(f"{number} {state}" for state, number in Counter(row["state"] for row in rows.values()).items())


def report(machine: dict[str, Any], stages: Stages) -> str:
    """A visit in plain text: what failed first, then every row."""
    every = {(stage, name): row for stage, rows in stages.items() for name, row in rows.items()}
    said = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device")
    lines = [machine["device"], said, f"{len(every)} rows: {counts(every)}", ""]
    lines += [f"FAILED {stage}: {name}\n    {outcome(row)}"
              for (stage, name), row in every.items() if row["state"] == FAILED]  # fmt: skip
    for stage in STAGES:
        if rows := stages.get(stage.name):
            lines += ["", f"{stage.title} ({counts(rows)})"]
            lines += [f"    {name}: {outcome(row)}" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def page(visits: Sequence[dict[str, Any]]) -> str:
    """The sections of all devices; before there is one, what a visit runs."""
    return "\n\n".join(section(visit) for visit in visits) if visits else plan()


def section(visit: dict[str, Any]) -> str:
    """One device's rows."""
    machine = visit["machine"]
    lines = [
        f"## On {machine['device']}",
        "",
        f"torch {machine['torch']}, Python {machine['python']}; float32 without TF32 (the sine wave in float64); "
        "contenders in turns, medians; in brackets the iterations.",
    ]
    for stage in STAGES:
        if rows := visit["stages"].get(stage.name):
            table = [[name, outcome(row).replace("|", "\\|")] for name, row in rows.items()]
            lines += ["", f"### {stage.title}", "", f"{counts(rows)}.", "", markdown(["row", "outcome"], table)]
    return "\n".join(lines)


def plan() -> str:
    """What a visit runs, where none has been made."""
    where = Where("cuda")
    total = sum(stage.seconds for stage in STAGES)
    table = [
        [str(number), stage.title, str(len(stage.rows(where))), f"{100 * stage.seconds / total:.0f} %"]
        for number, stage in enumerate(STAGES, 1)
    ]
    words = "No GPU was at hand when this page was written. A visit runs, in this order:\n\n"
    return words + markdown(["", "stage", "rows", "share of the time"], table)
