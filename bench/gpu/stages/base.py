"""What a stage of a visit is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
"""What JSON takes; `line` is what the report says of the row."""

Rows = dict[str, Callable[[], Figures]]


class NotHere(Exception):
    """A row does not make sense on this machine; the message says why."""


@dataclass(frozen=True)
class Where:
    """Where rows run.

    Attributes:
        device: of torch.
        tiny: sizes that a CPU manages in a moment, to see that every row runs.
    """

    device: str
    tiny: bool = False

    def size(self, full: int, tiny: int) -> int:
        """A number of a problem."""
        return min(full, tiny) if self.tiny else full


@dataclass(frozen=True)
class Stage:
    """Rows that answer one question.

    Attributes:
        name: short, for the file and for `--only`.
        title: what is asked.
        seconds: its share of ten minutes.
        rows: by name, the most valuable first; nothing is computed before a row is called.
        workers: processes that may run its rows at once: more than one where nothing is timed.
    """

    name: str
    title: str
    seconds: float
    rows: Callable[[Where], Rows]
    workers: int = 1
