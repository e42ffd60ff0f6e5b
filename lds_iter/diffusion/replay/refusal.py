"""A pipeline whose loop cannot be run in parallel."""

from __future__ import annotations

from typing import Any


class PipelineNotMapped(ValueError):
    """The loop of the pipeline is no recurrence over its scheduler's samples; the message says why.

    Args:
        pipe: which.
        why: what was found.
        instead: what to type.
    """

    def __init__(self, pipe: Any, why: str, instead: str = "Call the pipeline itself, `pipe(...)`.") -> None:
        super().__init__(f"`{type(pipe).__name__}` cannot be run in parallel: {why}. {instead}")


class PipelineInterrupted(RuntimeError):
    """The pipeline's `_interrupt` was set from outside while its steps were being solved."""
