"""The tables of `docs/background/peers.md`, from `bench/results/<device>/peers.json` alone."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown
from bench.common.timing import mib

COMMAND = "python -m bench.peers"

TITLES = {
    "GRUProblem": "A GRU",
    "ScanProblem": "A diagonal scan",
    "ODEProblem": "A neural ODE on equal steps",
}

HEAD = ["contender", "ms", "times ours", "iterations", "error", "memory (MiB)", "first call (s)"]


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    machine = results["lds_iter"]
    versions = sorted({row["package"] for table in results["tables"] for row in table["rows"] if "package" in row})
    lines = [
        f"## On {machine['device']}",
        "",
        f"{machine['threads']} threads of torch's; Python {machine['python']}; "
        f"{', '.join(versions)}. Whoever iterates stops at a largest residual of {results['residual']:g}. Contenders "
        f"run in turns, medians of {results['rounds']} (one, where a run takes {results['long']:g} s or more); whose "
        "first answer is outside of the gate is not timed. *Times ours* is how many times faster than the first row "
        "the contender is: above 1 it wins. *Error* is the largest difference to the reference, in training the "
        "largest relative one of a gradient. Memory and time of the first call include the "
        "compiler's, where something compiles that no earlier row has compiled.",
    ]
    for kind, title in TITLES.items():
        tables = [table for table in results["tables"] if table["problem"] == kind]
        if tables:
            lines += ["", f"### {title}", "", *(part for table in tables for part in (label(table), "", rows(table)))]
    if results["gradients"]:
        lines += ["### Gradients of scans", "", gradients(results["gradients"])]
    return "\n".join(lines)


def label(table: dict[str, Any]) -> str:
    """The problem, as a heading."""
    words = [table["layer"]] if table.get("layer", "GRU") != "GRU" else []
    words += [f"T = {table['length']:,}", f"D = {table['width']}", f"batch {table['batch']}"]
    words += ["forward and backward"] if table.get("training") else ["forward"]
    words += [f"`{table['step']}`, dt = {table['dt']:g}"] if "step" in table else []
    return f"#### {', '.join(words)}\n\nGate: {table['gate']:g}."


def rows(table: dict[str, Any]) -> str:
    """One line for each contender, those without a time last, with the reason."""
    timed = sorted((row for row in table["rows"] if "ms" in row), key=lambda row: row["ms"])
    lines = [
        [
            f"`{row['peer']}`",
            f"{row['ms']:.3g}" if row["ms"] < 1000 else f"{row['ms']:.0f}",
            f"**{row['times']:.3g}**" if "times" in row else "",
            "" if row["iterations"] is None else str(row["iterations"]),
            f"{row['error'] if row['gradient_error'] is None else row['gradient_error']:.0e}",
            mib(row["peak_mib"]),
            f"{row['first_s']:.2g}",
        ]
        for row in timed
    ]
    others = "".join(f"- `{row['peer']}`: {reason(row)}.\n" for row in table["rows"] if "ms" not in row)
    return markdown(HEAD, lines) + (f"\nNot timed:\n\n{others}" if others else "")


def reason(row: dict[str, Any]) -> str:
    """Why a contender has no time."""
    if row["state"] != "failed the gate":
        return row["state"]
    gradient = "" if row["gradient_error"] is None else f", gradients {row['gradient_error']:.0e}"
    count = "" if row["iterations"] is None else f" after {row['iterations']} iterations"
    return f"failed the gate: error {row['error']:.0e}{gradient}{count}"


def gradients(found: list[dict[str, Any]]) -> str:
    """Relative errors in float64."""
    lines = [
        [f"`{row['scan']}`", row["raised"], ""]
        if "raised" in row
        else [f"`{row['scan']}`", f"{row['error_a']:.0e}", f"{row['error_b']:.0e}"]
        for row in found
    ]
    words = "Relative errors of the gradients of `x_t = a_t x_{t-1} + b_t`, float64, against a loop. "
    words += "`pointwise` is the mode for GPUs, and the operator that it runs was called as it is.\n\n"
    return words + markdown(["scan", "in `a`", "in `b`"], lines)
