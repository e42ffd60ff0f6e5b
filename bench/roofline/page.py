"""What the page says of it: see `python -m bench.roofline`."""

from __future__ import annotations

from typing import Any

from bench.common.pages import markdown


def section(results: dict[str, Any]) -> str:
    """What the command writes into the page, for one device."""
    machine, measured = results["lds_iter"], results["rates"]
    head = ["method", "D", "T", "batch", "MB, fused", "MB, staged", "memory (ms)", "products (ms)",
            "sigmoid, tanh (ms)", "measured (ms)", "of the memory's speed", "of the longest floor"]  # fmt: skip
    lines = []
    for row in results["rows"]:
        floors, taken = row["floor_ms"], row["ms"]
        # A difference of times that is lost in the noise has no fraction.
        compared = floors["memory"], max(floors.values())
        shares = [f"{100 * floor / taken:.0f} %" if taken > 0 else "" for floor in compared]
        lines.append(
            [
                f"`{row['method']}`", str(row["D"]), f"{row['T']:,}", str(row["batch"]),
                *(f"{row[key]:.3g}" for key in ("fused_mb", "staged_mb")),
                *(f"{floors[key]:.2g}" for key in ("memory", "products", "special")), f"{taken:.3g}", *shares,
            ]
        )  # fmt: skip
    words = (
        f"## On {machine['device']}\n\n{machine['threads']} threads; torch {machine['torch']}. A copy moves "
        f"{measured['copy'] / 1e9:.1f} GB/s out of memory (read and written, {results['copied_mb']:.0f} MB) and "
        f"{measured['cached_copy'] / 1e9:.1f} GB/s out of cache; {measured['special'] / 1e9:.2f} billion sigmoids and "
        f"tanhs a second. Medians of {results['rounds']} rounds; float32.\n\n"
    )
    return words + markdown(head, lines)
