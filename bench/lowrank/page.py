"""The section of the page on structure, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown
from bench.common.timing import mib

HEAD = ["sequences", "transition", "iterations", "error", "ms", "memory at its peak, MiB"]


def section(results: Mapping[str, Any]) -> str:
    """What stands between the marks of `python -m bench.lowrank`: the figures of one device."""
    machine = results["machine"]
    where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}, float32."
    return f"{where}\n\n{markdown(HEAD, [_line(row) for row in results['rows']])}"


def _line(row: Mapping[str, Any]) -> list[str]:
    named = [str(row["sequences"]), row["structure"] if row["structure"] == "the loop" else f"`{row['structure']}`"]
    if "ms" not in row:
        return [*named, "-", "-", "-", f"its matrices: {1024 * row['matrices_gib']:,.0f}"]
    iterations = "" if row["iterations"] is None else str(row["iterations"])
    return [*named, iterations, f"{row['error']:.0e}", f"{row['ms']:,.0f}", mib(row["peak_mib"])]
