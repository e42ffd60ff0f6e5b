"""The tables of `docs/background/kernels.md`, from what `python -m bench.kernels` keeps."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown

COMMAND = "python -m bench.kernels"


def section(counted: list[dict[str, Any]], measured: dict[str, Any]) -> str:
    """What the command writes into the page; `measured` is empty where there was no CUDA device."""
    lines = [
        "### Bytes for each time step",
        "",
        markdown(
            ["Operation, with four numbers a state unless D is given", "least", "moved", "moved / least", "launches"],
            [
                [row["operation"], f"{row['least']:,.0f}", f"{row['moved']:,.1f}", f"{row['moved'] / row['least']:.2f}",
                 str(row["launches"])]
                for row in counted
            ],
        ),
        "### Times",
        "",
    ]  # fmt: skip
    if not measured:
        return "\n".join([*lines, "No figures yet: they await a CUDA device."])
    machine = measured["lds_iter"]
    return "\n".join(
        [
            *lines,
            f"Hardware: {measured['device']}; torch {machine['torch']}, Python {machine['python']}. Medians, as CUDA "
            "graphs, in microseconds; in brackets as launched from Python. A scan of at least "
            f"{measured['long']:,} steps should take at most {measured['bar']} copies.",
            "",
            scans(measured["scans"]),
            steps(measured["steps"]),
        ]
    )


def scans(rows: list[dict[str, Any]]) -> str:
    """A line for each scan."""
    names = list(dict.fromkeys(name for row in rows for name in row["us"]))
    head = ["T", "batch", "D", "block", "dtype", "error", "copies", *names]
    lines = [
        [f"{row['length']:,}", str(row["batch"]), str(row["width"]), str(row["size"]), row["dtype"].split(".")[-1],
         f"{row['error']:.0e}", f"**{row['copies']:.2f}**", *[_time(row["us"].get(name)) for name in names]]
        for row in rows
    ]  # fmt: skip
    return markdown(head, lines)


def steps(rows: list[dict[str, Any]]) -> str:
    """A line for each width of a GRU."""
    names = ["plain", "kernel", "iteration"]
    lines = [
        [f"{row['length']:,}", str(row["width"]), f"{row['error']:.0e}", *[_time(row["us"][name]) for name in names]]
        for row in rows
    ]
    return markdown(["T", "D", "error", *[f"GRU, {name}" for name in names]], lines)


def _time(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    return "failed" if "failed" in figures else f"{figures['graph']:.0f} ({figures['launched']:.0f})"
