"""Attributes of objects, exchanged for a while, and what stands in for a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Exchange:
    """Puts values into the `__dict__` of objects; `undo` leaves every object as it was found."""

    def __init__(self) -> None:
        self._found: list[tuple[Any, str, bool, Any]] = []

    def put(self, target: Any, name: str, value: Any) -> None:
        """Exchange one attribute."""
        self._found.append((target, name, name in target.__dict__, target.__dict__.get(name)))
        target.__dict__[name] = value

    def undo(self) -> None:
        """Put everything back, the last exchange first."""
        while self._found:
            target, name, had, value = self._found.pop()
            if had:
                target.__dict__[name] = value
            else:
                target.__dict__.pop(name, None)


class StandIn:
    """A callable with the signature of the one that it stands for, which cannot be copied unnoticed.

    Args:
        real: what it stands for.
        called: what is called in its place, with the same arguments.
        copied: called when somebody copies it, as a loop with two schedulers does.
    """

    def __init__(
        self, real: Callable[..., Any], called: Callable[..., Any], copied: Callable[[], Any] | None = None
    ) -> None:
        self.__wrapped__, self.__name__ = real, getattr(real, "__name__", "call")
        self._called, self._copied = called, copied

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        return self if self._copied is None else self._copied()
