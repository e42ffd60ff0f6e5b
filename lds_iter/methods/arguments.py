"""Checks of what methods are made of, each with what was expected, what came, and what to type instead."""

from __future__ import annotations

from typing import Any

from lds_iter.methods.base import TransitionApproximation


def check_instance(argument: str, value: Any, kind: type, examples: str) -> None:
    """An instance of `kind`, and not the class itself.

    Args:
        argument: its name.
        value: what came.
        kind: what was expected.
        examples: what to type, such as `Newton() or QuasiNewton()`.

    Raises:
        TypeError: when it is something else.
    """
    if not isinstance(value, kind):
        got, hint = repr(value), ""
        if isinstance(value, type):
            got = f"the class {value.__name__}"
            hint = f" Type `{value.__name__}()`." if issubclass(value, kind) else ""
        raise TypeError(f"`{argument}` must be an instance of {kind.__name__} such as {examples}, got {got}.{hint}")


def check_transition_method(argument: str, method: Any) -> None:
    """An instance of a method that chooses a transition, for the wrappers."""
    examples = "Newton(), QuasiNewton() or Picard(), a method that chooses a transition"
    check_instance(argument, method, TransitionApproximation, examples)


def check_count(argument: str, count: Any, least: int) -> None:
    """A whole number of at least `least`, for the wrappers."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(f"`{argument}` must be a whole number, {least} or more, got {count!r}.")
