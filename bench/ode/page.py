"""The table of the page on differential equations, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown

HEAD = ["steps", "batch", "solver", "forward, s", "and backward, s", "memory, MiB", "error", "iterations"]


def section(results: Mapping[str, Any]) -> str:
    """What stands between the marks of `python -m bench.ode`."""
    lines = [
        [
            f"{row['steps']:,}",
            str(row["batch"]),
            row["solver"],
            f"{row['forward']:.3g}",
            "-" if row["both"] is None else f"{row['both']:.3g}",
            "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
            f"{row['error']:.1e}",
            "-" if row["iterations"] is None else str(row["iterations"]),
        ]
        for row in results["rows"]
    ]
    where = f"{results['device']}, {results['threads']} threads, torch {results['torch']}, float64."
    return f"{where}\n\n{markdown(HEAD, lines)}"
