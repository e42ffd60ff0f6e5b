"""The table of the page on the field's recipes, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown

HEAD = ["problem", "steps", "method", "iterations", "times fewer", "error", "seconds", "loop, s"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    count = row["iterations"]
    return [
        row["problem"], f"{row['steps']:,}", row['method'], "over 100" if count is None else str(count),
        "-" if count is None else f"{row['steps'] / count:.0f}", "-" if count is None else f"{row['error']:.0e}",
        f"{row['seconds']:.2g}", f"{row['loop_seconds']:.2g}",
    ]  # fmt: skip


def section(results: Mapping[str, Any], part: str) -> str:
    """What stands between the marks of one recipe."""
    rows = [row for row in results["rows"] if row["part"] == part]
    published = "; ".join(dict.fromkeys(row["published"] for row in rows))
    return f"Published: {published}.\n\n{markdown(HEAD, [cells(row) for row in rows])}"
