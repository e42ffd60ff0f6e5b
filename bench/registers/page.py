"""The tables of `docs/background/kernels.md` on what kernels need, from what `python -m bench.registers` keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.common.pages import markdown
from bench.registers.targets import TARGETS

COMMAND = "python -m bench.registers"

KINDS = {
    "single_pass": "scans in one launch",
    "block_scan": "scans in three launches",
    "dense_scan": "scans of full matrices",
    "gru_step": "GRU", "lstm_step": "LSTM", "rnn_step": "RNN",
    "settling": "the end of an iteration",
}  # fmt: skip


def section(kept: dict[str, Any]) -> str:
    """What the command writes into the page."""
    rows = [{"launch": launch, "target": int(target), **row} for launch, of in kept["launches"].items()
            for target, found in of.items() for row in found]  # fmt: skip
    spilled = [row for row in rows if row["spilled"]]
    refused = [row for row in rows if not row["resident"]]
    words = (
        f"{len(rows)} kernels of {len(kept['launches'])} launches, compiled by Triton {kept['triton']}; for compute "
        f"capability {', '.join(f'{target} ({card})' for target, card in TARGETS.items())}. "
        f"{_count(spilled, 'spills registers to memory', 'spill registers to memory')}; "
        f"{_count(refused, 'needs more than a multiprocessor has', 'need more than a multiprocessor has')}."
    )
    head = ["kernel", "compute capability", "compiled", "registers of a thread", "warps", "shared memory (KiB)",
            "programs on a multiprocessor", "spilled (bytes)"]  # fmt: skip
    return "\n\n".join([words, markdown(head, _lines(rows)), *_named(spilled), *_missing(kept)])


def _named(spilled: Sequence[dict[str, Any]]) -> list[str]:
    """Which kernels spill, and how much."""
    words = list(dict.fromkeys(f"{row['launch']} for {row['target']}, {row['spilled']} bytes" for row in spilled))
    return [f"Bytes of a thread that are spilled: {'; '.join(words)}."] if words else []


def _count(rows: Sequence[dict[str, Any]], one: str, many: str) -> str:
    return f"none {one}" if not rows else f"{len(rows)} {one if len(rows) == 1 else many}"


def _lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line for each kernel and target: the range over dtypes and widths."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kernel"], row["target"]), []).append(row)
    lines = []
    for (kernel, target), found in sorted(groups.items(), key=lambda item: (_rank(item[0][0]), item[0])):
        file, name = kernel.split(".")
        kibs = [row["shared"] / 1024 for row in found]
        lines.append(
            [f"`{name}`, {KINDS[file]}", str(target), str(len(found)), _range([row["registers"] for row in found]),
             _range([row["warps"] for row in found]), _range([round(kib, 1) for kib in kibs]),
             _range([row["resident"] for row in found]), str(max(row["spilled"] for row in found))]
        )  # fmt: skip
    return lines


def _rank(kernel: str) -> int:
    return list(KINDS).index(kernel.split(".")[0])


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _missing(kept: dict[str, Any]) -> list[str]:
    """Which targets do not have all launches."""
    short = {target: sum(str(target) in of for of in kept["launches"].values()) for target in TARGETS}
    total = kept["offered"]
    words = [f"{count} of {total} launches for {target}" for target, count in short.items() if count < total]
    return [f"Compiled so far: {', '.join(words)}."] if words else []
