"""The page on compiled steps, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.common.pages import markdown

HEAD = ["layer", "T", "D", "batch", "forward, ms", "times as fast", "training, ms", "times as fast"]


def section(results: Mapping[str, Any]) -> str:
    """What stands between the marks of `python -m bench.steps`: the figures of one device and number of threads."""
    pairs: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in results["rows"]:
        pairs.setdefault((row["layer"], row["T"], row["D"], row["batch"]), {})[row["of"]] = row
    lines = [
        [layer, f"{length:,}", str(width), str(batch), *_figures(pair["forward"]), *_figures(pair["training"])]
        for (layer, length, width, batch), pair in pairs.items()
    ]
    machine = results["machine"]
    where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}."
    worst = min(row["ratio"] for row in results["rows"])
    return f"{where} The worst of all: {worst:.2f} times.\n\n{markdown(HEAD, lines)}"


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['ours_ms']:.3g}", f"{row['ratio']:.2f}"]
