"""What the page says of it: see `python -m bench.gradients`."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown


def section(results: dict[str, Any]) -> str:
    """The table of the page."""
    head = ["D", "T", "error of the diagonal adjoint", "error of `Implicit()`", "iterations", "of the adjoint"]

    def span(numbers: list[int]) -> str:
        return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)}-{max(numbers)}"

    lines = [
        [
            str(row["width"]),
            f"{row['length']:,}",
            f"{100 * min(row['diagonal_error']):.0f}-{100 * max(row['diagonal_error']):.0f} %",
            f"{max(row['error']):.0e}",
            span(row["iterations"]),
            span(row["adjoint_iterations"]),
        ]
        for row in results["rows"]
    ]
    return (
        f"torch {results['torch']}, Python {results['python']}; seeds {', '.join(map(str, results['seeds']))}, ranges "
        f"over them. Solve and adjoint by `QuasiNewton()`, rtol = atol = {results['tolerance']:g}.\n\n"
        + markdown(head, lines)
    )
