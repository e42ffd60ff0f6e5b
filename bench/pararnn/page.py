"""The table of `docs/background/pararnn.md`, from `bench/results/<device>/pararnn.json` alone."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown
from bench.common.timing import mib

COMMAND = "python -m bench.pararnn"

CONTENDERS = ("torch.nn.GRU", "pararnn", "lds_iter")


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page."""
    machine = results["lds_iter"]
    lines = [
        f"Hardware: {machine['cpu']}, {machine['threads']} threads, no GPU; torch {machine['torch']}, Python "
        f"{machine['python']}, pararnn-torch {results['pararnn']}. Both stop at a largest residual of "
        f"{results['residual']:g}. A row is timed only after the outputs of all contenders have been found within "
        f"{results['gate']:g} of the loop's and the gradients of both within {results['gradient_gate']:g}, relative. "
        f"In turns, medians of {results['rounds']} rounds (one, where a run takes three seconds or more).",
    ]
    for training, title in (False, "Forward"), (True, "Forward and backward"):
        rows = [row for row in results["rows"] if row["training"] == training]
        lines += ["", f"### {title}", "", table(rows)]
    lines += ["### Memory and residuals", "", memory(results["rows"])]
    lines += ["### Long ParaSLSTM", "", long_slstm(results)]
    return "\n".join(lines)


def label(row: dict[str, Any]) -> list[str]:
    """The cells that name a row."""
    return [f"`{row['cell']}`", str(row["width"]), f"{row['length']:,}", str(row["batch"])]


def table(rows: list[dict[str, Any]]) -> str:
    """Times, updates and errors."""
    head = ["cell", "D", "T", "batch", "torch.nn.GRU (ms)", "pararnn (ms)", "ours (ms)", "pararnn / ours", "updates",
            "ours", "error", "ours"]  # fmt: skip
    lines = [
        [
            *label(row),
            *(f"{row['ms'][name]:.1f}" if name in row["ms"] else "" for name in CONTENDERS),
            f"**{row['ms']['pararnn'] / row['ms']['lds_iter']:.1f}**",
            *(str(row["updates"][name]) for name in CONTENDERS[1:]),
            *(f"{row['error'][name]:.0e}" for name in CONTENDERS[1:]),
        ]
        for row in rows
    ]
    return markdown(head, lines)


def memory(rows: list[dict[str, Any]]) -> str:
    """Peaks, the residuals reached, and that of `pararnn` as it comes."""
    head = ["cell", "D", "T", "batch", "backward", "torch.nn.GRU (MiB)", "pararnn (MiB)", "ours (MiB)",
            "residual, pararnn", "ours", "pararnn, three iterations"]  # fmt: skip
    lines = [
        [
            *label(row),
            "yes" if row["training"] else "no",
            *(mib(row["peak_mib"].get(name)) for name in CONTENDERS),
            *(f"{row['residual'][name]:.0e}" for name in CONTENDERS[1:]),
            f"{row['default_residual']:.0e}",
        ]
        for row in rows
    ]
    return markdown(head, lines)


def long_slstm(results: dict[str, Any]) -> str:
    """Residuals where the stabilizer is large, or the guess is poor."""
    head = [
        "D",
        "T",
        "pararnn",
        "ours, the same guess",
        "in updates",
        "ours, from zeros",
        "largest number of the state",
    ]
    lines = [
        [
            str(row["width"]),
            f"{row['length']:,}",
            *(f"{row[key]:.0e}" for key in ("pararnn", "lds_iter")),
            str(row["updates"]),
            f"{row['from_zeros']:.0e}",
            f"{row['largest_state']:.0f}",
        ]
        for row in results["long"]
    ]
    return (
        f"Largest residuals after {results['limit']} iterations, or at the first one within {results['residual']:g}:"
        + ("\n\n" + markdown(head, lines))
    )
