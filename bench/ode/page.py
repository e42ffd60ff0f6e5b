"""The tables of the page on differential equations, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown
from bench.common.timing import mib

HEAD = ["equation", "steps", "batch", "solver", "forward, ms", "and backward, ms", "memory, MiB", "error", "iterations"]


def section(results: Mapping[str, Any]) -> str:
    """What stands between the marks of `python -m bench.ode`."""
    rows = sorted(results["rows"], key=lambda row: (-len(row["problem"]), row["batch"], row["steps"]))
    lines = [
        [
            row["problem"],
            f"{row['steps']:,}",
            str(row["batch"]),
            row["solver"],
            f"{row['forward']:,.4g}",
            "" if row["both"] is None else f"{row['both']:,.4g}",
            mib(row["peak_mib"]),
            f"{row['error']:.1e}",
            "" if row["iterations"] is None else str(row["iterations"]),
        ]
        for row in rows
    ]
    where = f"{results['device']}, {results['threads']} threads, torch {results['torch']}, float64."
    return "\n\n".join([where, bars(results["rows"]), markdown(HEAD, lines).strip(), left_out(results["skipped"])])


def bars(rows: list[Mapping[str, Any]]) -> str:
    """How many times faster than torchdiffeq, per case."""
    ours = {row["case"]: row for row in rows if row["solver"] == "lds_iter, rk4"}
    said = []
    for row in rows:
        if row["solver"] != "torchdiffeq, rk4" or row["case"] not in ours:
            continue
        mine = ours[row["case"]]
        both = "" if row["both"] is None else f", {row['both'] / mine['both']:.3g} with gradients"
        said.append(f"{row['case']}: {row['forward'] / mine['forward']:.3g}{both}")
    return "Time of torchdiffeq's `rk4` over ours: " + "; ".join(said) + "." if said else ""


def left_out(skipped: list[Mapping[str, Any]]) -> str:
    """What was not measured, and why."""
    if not skipped:
        return ""
    lines = [f"- {one['case']}, {one['solver']}: {one['reason']}." for one in skipped]
    return "Not measured:\n\n" + "\n".join(lines)
