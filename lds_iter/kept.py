"""A property that is computed once: `functools.cached_property` without the lock, which no compiler can trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class kept(Generic[T]):
    """Decorator: compute the property when it is first asked for, and keep it with the object; it must not be None."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = f"_kept_{compute.__name__}"
        self.__doc__ = compute.__doc__

    def __get__(self, owner: Any, kind: type) -> T:
        found = getattr(owner, self._name, None)
        if found is None:
            found = self._compute(owner)
            setattr(owner, self._name, found)
        return found
