"""The tables of the page on Markov chains, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common.pages import markdown
from bench.mcmc.measure import CAP


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """Iterations by method: the range over the chains."""
    lines = [
        [row["case"], f"{row['moves']:,}", f"`{row['method']}`", _range(row["iterations"]), f"{row['acceptance']:.2f}",
         row["published"]]
        for row in rows
    ]  # fmt: skip
    return markdown(["chain", "moves", "method", "iterations", "acceptance", "published"], lines)


def leapfrogs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Iterations of the leapfrog steps of a move."""
    lines = [
        [row["case"], str(row["steps"]), f"`{row['method']}`", f"{row['mean']:.1f}", str(row["most"]),
         f"{row['acceptance']:.2f}", str(row["mismatches"])]
        for row in rows
    ]  # fmt: skip
    head = ["chain", "leapfrog steps", "method", "iterations, mean", "most", "acceptance", "decisions that differ"]
    return markdown(head, lines)


def timed(results: Mapping[str, Any]) -> str:
    """Seconds beside the loop; a contender that fails its gate gets no time."""
    loops = {(row["case"], row["chains"]): row["seconds"] for row in results["rows"] if "in_turn" in row["contender"]}
    lines = [_timed_line(row, loops.get((row["case"], row["chains"]))) for row in results["rows"]]
    where = f"{results['device']}, {results['threads']} threads, torch {results['torch']}, float64."
    head = [
        "chain", "chains x moves", "by", "iterations", "s", "times the loop", "draws/s", "ESS/s", "ESS/1000 gradients",
        "compiling, s", "difference",
    ]  # fmt: skip
    return f"{where}\n\n{markdown(head, lines)}"


def _timed_line(row: Mapping[str, Any], loop: float | None) -> list[str]:
    shape = f"{row['chains']} x {row['moves']:,}"
    if row["state"] != "timed":
        return [row["case"], shape, row["contender"], row["state"], *["-"] * 7]
    seconds, gradients = row["seconds"], row["gradients"] * row["chains"] * row["moves"]
    return [
        row["case"], shape, row["contender"],
        "-" if row["iterations"] is None else str(row["iterations"]),
        f"{seconds:.3g}",
        "-" if loop is None else f"{loop / seconds:.2f}",
        f"{row['chains'] * row['moves'] / seconds:,.0f}",
        f"{row['ess'] / seconds:,.0f}",
        f"{1000 * row['ess'] / gradients:.3g}" if gradients else "-",
        f"{row['setup']:.0f}" if row["setup"] else "-",
        "-" if row["difference"] is None else f"{row['difference']:.0e}",
    ]  # fmt: skip


def _range(iterations: Sequence[int | None]) -> str:
    if all(number is None for number in iterations):
        return f"over {CAP}"
    known = [number for number in iterations if number is not None]
    shown = f"{min(known)}-{max(known)}" if min(known) < max(known) else str(known[0])
    return shown if len(known) == len(iterations) else f"{min(known)} to over {CAP}"
