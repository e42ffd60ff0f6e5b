"""What the page says of it: see `python -m bench.predictions`."""

from __future__ import annotations

import statistics
from typing import Any


def _plain(number: float) -> str:
    """Two digits, without an exponent: 570, 5.7."""
    return f"{float(f'{number:.2g}'):g}"


def _inside(row: dict[str, Any]) -> bool:
    return row["low"] <= row["actual"] <= row["high"]


def _score(rows: list[dict[str, Any]]) -> str:
    """How often the range held, and how wide it was."""
    told = [row for row in rows if row["law"] != "unknown"]
    inside = sum(_inside(row) for row in told)
    close = sum(row["actual"] / 1.5 <= row["predicted"] <= row["actual"] * 1.5 for row in told)
    width = statistics.median(row["high"] / max(1, row["low"]) for row in told)
    return (
        f"{len(rows)} predictions, of which {len(rows) - len(told)} say no more than *at least*; of the other "
        f"{len(told)}, {inside} ranges hold the actual count (*high* is {width:.1f} times *low* in the median), and "
        f"{close} numbers are right within a factor of 1.5"
    )


REMARKS = (
    "- *Unknown* is not *many*. Where the memory is longer than the prefix, most counts stayed where they were (the",
    "  observers of ABC and SprottB) and some did not (Lorenz-96 at F = 2: 5 became 20; the network that reads text:",
    "  65 became 268). The prefix cannot tell these apart. `Prediction.enough` says which prefix could.",
    "- Ranges are narrow where the count has settled or grows in proportion, wide while it is on its way: quasi-Newton",
    "  on the mean-field network at g = 1.0 had 199 iterations after 256 steps and settles at 212.",
    "- A regime that begins after the prefix is seen by no rule of this kind. Between two wells a single sequence may",
    "  look settled for thousands of steps, until it crosses over.",
)
"""What to learn from the rows."""


def page(results: dict[str, Any]) -> str:
    """The page of the guide."""
    rows = results["rows"]
    command = "python -m bench.predictions" + (" --full" if results["full"] else "")
    seen, fresh = ([row for row in rows if row["unseen"] == kind] for kind in (False, True))
    costs = [row["cost"] for row in rows]
    lines = [
        "# Predicted and actual iterations",
        "",
        "`li.diagnostics.predict_iterations` solves a prefix, takes its Lyapunov exponent, and says how the count",
        "grows from there, or that the prefix cannot tell. This page holds it against full solves. Made by",
        f"`{command}`, torch {results['torch']}. The rules were chosen with the problems of the first table in view;",
        "those of the second were tried once the rules were fixed, and are the test.",
        "",
        f"- In view: {_score(seen)}.",
        f"- Unseen: {_score(fresh)}.",
        f"- Cost: between {min(costs):.1%} and {max(costs):.0%} of the rows of `f` that the solve evaluates, "
        f"{statistics.median(costs):.1%} in the median.",
        "",
        *REMARKS,
        "",
        "*e-folds*: how many the prefix spans (its length times its exponent, nats per step), of how many that its",
        "memory takes (from the residual of the guess to the tolerance). *low*, *predicted*, *high*: the range and the",
        "number; *high* is T where the law is unknown. *cost*: rows of `f` evaluated by the prediction, as a part of",
        "those of the solve. Of several sequences in a batch the slowest counts.",
        "",
        "## In view",
        "",
        *_table(seen),
        "",
        "## Unseen",
        "",
        *_table(fresh),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| problem | method | T | prefix | exponent | e-folds | law | low | predicted | high | actual | cost | |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        head = [row["problem"], row["method"], f"{row['length']:,}", f"{row['prefix']:,}", f"{row['exponent']:+.4f}"]
        memory = f"{_plain(row['efolds'])} of {_plain(row['needed'])}"
        known = row["law"] != "unknown"
        range_ = [f"{row['low']:,}", f"{row['predicted']:,}" if known else "", f"{row['high']:,}" if known else ""]
        tail = [f"{row['actual']:,}", f"{row['cost']:.1%}", "" if _inside(row) else "**outside**"]
        lines.append("| " + " | ".join([*head, memory, row["law"], *range_, *tail]) + " |")
    return lines
