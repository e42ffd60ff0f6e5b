"""Figures in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def span(counts: list[int]) -> str:
    """The iterations of several solves: one number, or the least and the most."""
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
