"""What the page says of it: see `python -m bench.compile`."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown
from bench.compile.measure import GRADIENT_ERROR, Row

COMMAND = "python -m bench.compile"


def table(rows: list[Row], machine: dict[str, Any]) -> str:
    """The section of the page."""
    head = [
        "Recurrence, method",
        "Passes",
        "T",
        "D",
        "Iterations",
        "Plain, ms",
        "Compiled, ms",
        "Ratio",
        "Compiling, s",
        "Error",
    ]
    lines = [
        [
            row.name, row.passes, f"{row.length:,}", f"{row.width}", f"{row.iterations}", f"{row.plain_ms:.1f}",
            f"{row.compiled_ms:.1f}", f"{row.plain_ms / row.compiled_ms:.1f}", f"{row.compile_s:.0f}",
            f"{row.error:.0e}",
        ]
        for row in rows
    ]  # fmt: skip
    where = f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}"
    return (
        markdown(head, lines)
        + f"\nMeasured by `{COMMAND}` on {where}: medians of {rows[0].rounds} rounds by turns, float32, residual 1e-5; "
        "the error is the larger one of both against the loop over time, and both take equally many iterations. "
        f"Gradients, of inputs and weights, were held to those through that loop, to {GRADIENT_ERROR:g} in norm; "
        "what is compiled for them comes on top of what the forward pass has compiled."
    )
