"""The errors and warnings of this package, as classes, so that they can be caught, filtered or turned into errors."""

from __future__ import annotations

import sys
import textwrap
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.solution import Result, Solution

OURS = ("lds_iter", "torch")
CAME_FROM = "This came from "


class PerformanceWarning(UserWarning):
    """The result is right, but was computed the slow way, step by step."""


def warn_of_slowness(message: str) -> None:
    """Give a `PerformanceWarning` for the line of the user's that led here: the first outside of this package and
    torch, whose modules and compilers call each other at several depths."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, PerformanceWarning, stacklevel=level)


def note_source(error: Exception, source: str) -> None:
    """Say in a note which function of the user's raised an error, in the words of the call that took the function.

    The first name stays: `odeint` says `func`, where the solve beneath would say `f`.

    Args:
        error: what the function raised.
        source: its name and what it was given, such as "`func(t, y)`, called with y (3, 4)."
    """
    if not source_is_named(error):
        error.add_note(CAME_FROM + source)


def source_is_named(error: Exception) -> bool:
    """Whether a note says already which function of the user's raised the error."""
    return any(note.startswith(CAME_FROM) for note in getattr(error, "__notes__", ()))


def shapes_of(value: Any) -> str:
    """The shapes of a pytree of tensors, for a message."""
    shapes = pytree.tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf, value)
    return textwrap.shorten(str(shapes), 120)


class SolveError(RuntimeError):
    """A solve in which some sequence did not converge; nothing is lost.

    Attributes:
        message: what happened, the likely causes, and what to type.
        solution: the states reached, with result codes, counts and residuals per sequence.
    """

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.message, self.solution = message, solution

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles carry the light solution: without a graph and without the inputs of the solve."""
        return type(self), (str(self), self.solution.light())


class RankError(RuntimeError):
    """Another process of a shared trajectory has failed or is gone, so this one cannot go on.

    Attributes:
        message: which process it was, and what happened there.
        rank: of that process in the group; None where it is not known.
    """

    def __init__(self, message: str, rank: int | None) -> None:
        super().__init__(message)
        self.message, self.rank = message, rank

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.rank)


def explain_failure(
    solution: Solution, other_methods: list[tuple[str, str]], rtol: float, atol: float, max_iters: int, length: int
) -> str:
    """What happened, the likely causes, most likely first, and what to type.

    Args:
        solution: of the solve that failed.
        other_methods: pairs of a reason and a method to type, most likely first; see `methods.advice`.
        rtol, atol, max_iters, length: of the solve.
    """
    codes, count = solution.result, solution.result.numel()
    slow, broken = codes == Result.MAX_ITERS, codes == Result.NONFINITE
    lines = [f"`solve` did not converge for {int((slow | broken).sum())} of {count} sequence(s)."]
    if slow.any():
        worst = float(solution.residual[slow].nan_to_num(torch.inf).max())
        lines.append(
            f"{int(slow.sum())} reached max_iters={max_iters} with a residual of up to {worst:.2g} "
            f"(rtol={rtol:g}, atol={atol:g}); {int(solution.resets.sum())} proposed rows were not finite. In order of "
            "likelihood:\n"
            + "".join(f"  - {reason}: method={text}\n" for reason, text in other_methods)
            + "  - the same: guess=states from a nearby solve\n"
            f"  - it is too long at once: window={length // 8 or 1}\n"
            f"  - the limit is too low: max_iters={length} (the default, T) always suffices\n"
            "  - the tolerance is below rounding: larger `rtol`/`atol`, or float64"
        )
    if broken.any():
        lines.append(
            f"In {int(broken.sum())}, `f` returned inf or NaN from an exact state, as it would step by step: check "
            "`f`, `s0` and `inputs` there (the states before it are right)."
        )
    lines.append(
        "The states reached are in `error.solution` (or pass throw=False). What always works: "
        "li.sequential(f, s0, inputs)."
    )
    return "\n".join(lines)
