"""What a strategy decided on its way, and why: the records in `Solution.decisions`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """One decision of a strategy such as `Auto`; print it.

    Attributes:
        sweep: how many evaluations along the guess came before.
        row: how many rows of the slowest sequence were accepted by then.
        choice: what it went on with.
        why: the reason, in words, with the figures that it went by.
        projected: seconds that the choice was expected to take from there on; None where nothing was measured.
        sequential: seconds that step-by-step evaluation was expected to take from there on; None likewise.
    """

    sweep: int
    row: int
    choice: str
    why: str
    projected: float | None = None
    sequential: float | None = None

    def __str__(self) -> str:
        text = f"sweep {self.sweep}, row {self.row}: {self.choice}, since {self.why}"
        if self.projected is None or self.sequential is None:
            return text
        return f"{text} (to go: {duration(self.projected)}; step by step {duration(self.sequential)})"


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    for size, unit in (1.0, "s"), (1e-3, "ms"):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
