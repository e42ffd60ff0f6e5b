"""The tables of `docs/background/gpu.md`, from `bench/results/<device>/gpu.json`, or a list of what awaits a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.common.pages import markdown
from bench.peers.page import rows

COMMAND = "python -m bench.gpu"


def section(results: dict[str, Any]) -> str:
    """One device's figures."""
    machine = results["lds_iter"]
    lines = [
        f"## On {machine['device']}",
        "",
        f"torch {machine['torch']}, float32 without TF32 (the sine wave in float64); contenders in turns, medians of "
        f"{results['rounds']}. *Times ours* above 1: the contender is faster than the first row.",
    ]
    for group in results["groups"]:
        lines += ["", f"### {group['title']}", "", group["note"]]
        lines += [part for table in group["tables"] for part in ("", f"#### {name(table)}", "", rows(table))]
        if group["left"]:
            lines += ["", "Not run, for want of time: " + "; ".join(name(problem) for problem in group["left"]) + "."]
    return "\n".join(lines)


def name(problem: dict[str, Any]) -> str:
    """A problem, by its size."""
    words = [f"T = {problem['length']:,}", f"D = {problem['width']}", f"batch {problem['batch']}"]
    return ", ".join(words + (["training"] if problem.get("training") else []))


def plan(groups: Sequence[dict[str, Any]]) -> str:
    """What has not been measured yet."""
    lines = [
        [
            group["title"],
            str(len(group["left"])),
            ", ".join(f"{length:,}" for length in sorted({problem["length"] for problem in group["left"]})),
            ", ".join(str(width) for width in sorted({problem["width"] for problem in group["left"]})),
            ", ".join(str(batch) for batch in sorted({problem["batch"] for problem in group["left"]})),
            group["note"],
        ]
        for group in groups
    ]
    head = ["figures", "problems", "T", "D", "batch", "to be held against"]
    return "No GPU was at hand when this page was written. These figures await one:\n\n" + markdown(head, lines)
