"""The warnings of this package, as classes, so that they can be filtered or turned into errors."""

from __future__ import annotations

import sys
import warnings

OURS = ("lds_iter", "torch")


class PerformanceWarning(UserWarning):
    """The result is right, but was computed the slow way, step by step."""


def warn_of_slowness(message: str) -> None:
    """Give a `PerformanceWarning` for the line of the user's that led here: the first outside of this package and
    torch, whose modules and compilers call each other at several depths."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, PerformanceWarning, stacklevel=level)
