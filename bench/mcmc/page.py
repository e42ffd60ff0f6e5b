"""The tables of the page on Markov chains, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.mcmc.measure import CAP
from bench.pages import markdown


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """Iterations by method: the range over the chains."""
    lines = [
        [row["case"], f"{row['moves']:,}", f"`{row['method']}`", _range(row["iterations"]), f"{row['acceptance']:.2f}",
         row["published"]]
        for row in rows
    ]  # fmt: skip
    return markdown(["chain", "moves", "method", "iterations", "acceptance", "published"], lines)


def timed(results: Mapping[str, Any]) -> str:
    """Seconds beside the loop; chains whose decisions differ get no time."""
    lines = [
        [row["case"], f"{row['moves']:,}", f"`{row['method']}`", str(row["iterations"]),
         *([f"{row['parallel']:.3g}", f"{row['sequential']:.3g}", f"{row['sequential'] / row['parallel']:.2f}"]
           if row["mismatches"] == 0 else ["-", "-", f"{row['mismatches']} decisions differ"]),
         f"{row['difference']:.0e}"]
        for row in results["rows"]
    ]  # fmt: skip
    where = f"{results['device']}, {results['threads']} threads, torch {results['torch']}, float64, 4 chains."
    head = ["chain", "moves", "method", "iterations", "parallel, s", "one by one, s", "ratio", "difference"]
    return f"{where}\n\n{markdown(head, lines)}"


def _range(iterations: Sequence[int | None]) -> str:
    if all(number is None for number in iterations):
        return f"over {CAP}"
    known = [number for number in iterations if number is not None]
    shown = f"{min(known)}-{max(known)}" if min(known) < max(known) else str(known[0])
    return shown if len(known) == len(iterations) else f"{min(known)} to over {CAP}"
