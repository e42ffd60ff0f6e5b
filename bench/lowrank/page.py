"""The section of the page on structure, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown
from bench.common.timing import mib

HEAD = ["sequences", "transition", "iterations", "error", "ms", "memory at its peak, MiB"]
SCANS = ["one scan, one sequence", "error", "ms", "memory at its peak, MiB"]


def section(results: Mapping[str, Any]) -> str:
    """What stands between the marks of `python -m bench.lowrank`: the figures of one device."""
    machine = results["machine"]
    where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}, float32."
    solves, scans = map(_line, results["rows"]), map(_scan, results["scans"])
    return f"{where}\n\n{markdown(HEAD, [*solves])}\n\n{markdown(SCANS, [*scans])}"


def _line(row: Mapping[str, Any]) -> list[str]:
    iterations = "" if row["iterations"] is None else str(row["iterations"])
    return [
        str(row["sequences"]), row["structure"], iterations, f"{row['error']:.0e}", f"{row['ms']:,.0f}",
        mib(row["peak_mib"]),
    ]  # fmt: skip


def _scan(row: Mapping[str, Any]) -> list[str]:
    return [row["scan"], f"{row['error']:.0e}", f"{row['ms']:,.1f}", mib(row["peak_mib"])]
