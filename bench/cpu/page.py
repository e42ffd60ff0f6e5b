"""What the page says of it: see `python -m bench.cpu`."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown


def section(results: dict[str, Any]) -> str:
    """Both tables of the page."""
    first = [
        [row["what"], f"{row['T']:,}", str(row["D"]), str(row.get("iterations", "")), f"{row['plain_ms']:.2f}",
         f"{row['compiled_ms']:.2f}", f"**{row['plain_ms'] / row['compiled_ms']:.1f}**", f"{row['error']:.0e}"]
        for row in results["rows"]
    ]  # fmt: skip
    second = []
    for row in results["rows"]:
        memory = 1e3 * row["bytes"] / row["copy"]
        second.append([
            row["what"], f"{row['T']:,}", str(row["D"]), f"{row['bytes'] / 2**20:.1f}", f"{row['roofline_ms']:.2f}",
            f"{row['copy'] / 1e9:.0f}", f"{memory:.2f}", f"{100 * memory / row['roofline_ms']:.0f} %",
        ])  # fmt: skip
    return (
        f"{results['cpu']}, {results['threads']} threads, torch {results['torch']}; float32, batch 1, medians of "
        f"{results['rounds']} rounds in turns. Solves stop at a residual of {results['residual']:g}.\n\n"
        + markdown(["", "T", "D", "iterations", "plain (ms)", "compiled (ms)", "times faster", "difference"], first)
        + "\nThe roofline, for one scan or one iteration:\n\n"
        + markdown(
            ["", "T", "D", "MiB to move", "measured (ms)", "copy (GB/s)", "memory alone (ms)", "reached"], second
        )
    )
