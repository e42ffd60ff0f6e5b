"""The tables of the page on the field's recipes, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown

HEAD = ["problem", "steps", "method", "iterations", "times fewer", "error"]
TIMES = ["problem", "steps", "method", "iterations", "error", "seconds", "loop, s", "times faster"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A line of the counts."""
    count = row["iterations"]
    return [
        row["problem"], f"{row['steps']:,}", row["method"], f"over {row['most']}" if count is None else str(count),
        "-" if count is None else _figures(row["steps"] / count), "-" if count is None else f"{row['error']:.0e}",
    ]  # fmt: skip


def time_cells(row: Mapping[str, Any]) -> list[str]:
    """A line of the times."""
    return [
        row["problem"], f"{row['steps']:,}", row["method"], str(row["iterations"]), f"{row['error']:.0e}",
        f"{row['ms'] / 1e3:.2g}", f"{row['loop_ms'] / 1e3:.2g}", f"{row['loop_ms'] / row['ms']:.2g}",
    ]  # fmt: skip


def section(results: Mapping[str, Any], part: str) -> str:
    """The counts of one recipe: what stands between its marks."""
    rows = [row for row in results["rows"] if row["part"] == part]
    published = "; ".join(dict.fromkeys(row["published"] for row in rows))
    return f"Published: {published}.\n\n{markdown(HEAD, [cells(row) for row in rows])}"


def times_section(results: Mapping[str, Any]) -> str:
    """The times of all recipes."""
    where = f"{results['cpu']}, {results['threads']} thread, torch {results['torch']}, forward, median of turns."
    return f"{where}\n\n{markdown(TIMES, [time_cells(row) for row in results['rows']])}"


def _figures(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
