"""Checks of the arguments of methods. Each error says what was expected, what came, and what to type instead."""

from __future__ import annotations

import math
import operator
from typing import Any

from lds_iter.methods.base import StatefulTransition


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
    """An instance of a method that chooses a transition, for the wrappers.

    Raises:
        TypeError: when it is something else.
    """
    examples = "Newton(), QuasiNewton() or Chord(Newton(), 3), a method that chooses a transition"
    try:
        check_instance(argument, method, StatefulTransition, examples)
    except TypeError as error:
        inner = [part for part in getattr(method, "__dict__", {}).values() if isinstance(part, StatefulTransition)]
        if inner:
            error.add_note(
                f"{type(method).__name__} bounds or chooses whole updates, so it goes outermost: wrap "
                f"{inner[0]!r} and put {type(method).__name__} around that."
            )
        raise


def check_count(argument: str, count: Any, least: int) -> int:
    """A whole number of at least `least`; returns it as an int, also where it came as numpy's.

    Raises:
        ValueError: when it is something else.
    """
    try:
        whole = None if isinstance(count, bool) else operator.index(count)
    except TypeError:
        whole = None
    if whole is None or whole < least:
        raise ValueError(f"`{argument}` must be a whole number, {least} or more, got {count!r}.")
    return whole


def check_number(argument: str, number: Any, low: float, high: float, *, open_low: bool = False) -> float:
    """A number in `[low, high]`, or in `(low, high]`; returns it as a float, also where it came as numpy's.

    Raises:
        ValueError: when it is something else.
    """
    try:
        value = None if isinstance(number, bool | str | bytes) else float(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = None
    fits = value is not None and (low < value if open_low else low <= value) and value <= high
    if value is None or not fits:
        if high == math.inf:
            bounds = f"be {'a number above' if open_low else 'a number of at least'} {low:g}"
        else:
            bounds = f"lie in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"`{argument}` must {bounds}, got {number!r}.")
    return value


def fix(frozen: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass within its `__post_init__`."""
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)
