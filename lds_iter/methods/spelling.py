"""How methods are made, shown and compared: keywords with hints, short reprs, equality that holds for tensors."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Composable:
    """The base of methods, of their parts and of rules.

    - An unknown keyword is answered with the nearest known one, a missing abstract method with its name.
    - A dataclass shows the fields that differ from their defaults: `TrustRegion(Newton(), k=0.5)`.
    - Dataclasses of one type are equal when their fields are, tensors and the states of modules by value.

    Raises:
        TypeError: for a keyword that the class does not take, or a class that lacks an abstract method.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        lacking = getattr(cls, "__abstractmethods__", None)
        if lacking:
            named = ", ".join(f"`{name}{_parameters(cls, name)}`" for name in sorted(lacking))
            raise TypeError(f"`{cls.__name__}` must define {named} before it can be used.")
        check_count_of(cls.__name__, args, cls.__init__)
        check_keywords(cls.__name__, kwargs, cls.__init__)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, torch.nn.Module):  # has a repr, and an identity that optimizers rely on
            return
        for name, shared in ("__repr__", shown), ("__eq__", _equal_fields), ("__hash__", _hash):
            if name not in cls.__dict__:  # a dataclass keeps what its class defines
                setattr(cls, name, shared)


def check_count_of(taker: str, given: tuple[Any, ...], function: Any) -> None:
    """Arguments without keywords: no more than `function`, the `__init__` of a class, takes."""
    if not given:
        return
    parameters = [] if function is object.__init__ else list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(given) <= len(names):
        return
    if not parameters:
        raise TypeError(f"`{taker}` takes no arguments, got {len(given)}. Type `{taker}()`.")
    keywords = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    also = f"; by keyword: {', '.join(keywords)}" if keywords else ""
    raise TypeError(
        f"`{taker}` takes {len(names)} argument(s) without a keyword, got {len(given)}. It takes: "
        f"{', '.join(names) or 'none'}{also}."
    )


def check_keywords(taker: str, given: dict[str, Any], function: Any) -> None:
    """Keywords: each known to `function`; an unknown one is answered with the nearest known one."""
    parameters = inspect.signature(function).parameters.values() if given else ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        if function is not object.__init__:
            return
        parameters = ()
    check_names(taker, given, [parameter.name for parameter in parameters if parameter.name != "self"])


def check_names(taker: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Keywords: each among those known to `taker`; an unknown one is answered with the nearest known one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise TypeError(f"`{taker}` has no argument `{name}`.{hint} It takes: {', '.join(known) or 'nothing'}.")


def spelled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unknown keyword is answered with the nearest known one."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return checked


def shown(value: Any, prefix: str = "") -> str:
    """The text that makes the object again, without what has its default.

    Args:
        value: a method, a rule, or what fields hold.
        prefix: before the names of the library's own classes, such as `li.`.
    """
    if isinstance(value, Tensor):
        return f"<{' x '.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}>"
    if not isinstance(value, Composable) or isinstance(value, torch.nn.Module):
        return repr(value)
    cls = type(value)
    if cls.__repr__ is not shown:
        return repr(value)
    name = (prefix if cls.__module__.startswith("lds_iter.") else "") + cls.__name__
    if not dataclasses.is_dataclass(value):
        return f"{name}()" if not getattr(value, "__dict__", None) else object.__repr__(value)
    parts, positional = [], True
    for field in dataclasses.fields(value):
        given, default = getattr(value, field.name), _default(field)
        if not field.repr:
            continue
        if default is not dataclasses.MISSING and same(given, default):
            positional = False
            continue
        positional = positional and default is dataclasses.MISSING and not field.kw_only
        text = shown(given, prefix)
        parts.append(text if positional else f"{field.name}={text}")
    return f"{name}({', '.join(parts)})"


def same(one: Any, other: Any) -> bool:
    """Equality by value, for tensors and modules too."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        return alike and torch.equal(one, other)
    if isinstance(one, torch.nn.Module) and type(one) is type(other):
        return same(one.state_dict(), other.state_dict())
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _compared(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value) if field.compare]


def _equal_fields(self: Any, other: Any) -> Any:
    if type(self) is not type(other) or not dataclasses.is_dataclass(self):
        return NotImplemented
    return same(_compared(self), _compared(other))


def _hash(self: Any) -> int:
    if not dataclasses.is_dataclass(self):
        return object.__hash__(self)
    if not self.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise TypeError(f"unhashable type: '{type(self).__name__}'. Make it `@dataclass(frozen=True)`.")
    return hash((type(self), *map(_hashed, _compared(self))))


def _hashed(value: Any) -> Any:
    """A hash that equal values share; of a tensor or a module only what is cheap to read."""
    if isinstance(value, Tensor):
        return hash((value.shape, value.dtype))
    if isinstance(value, torch.nn.Module):
        return hash(type(value))
    if isinstance(value, tuple | list):
        return hash(tuple(map(_hashed, value)))
    return len(value) if isinstance(value, dict) else hash(value)


def _parameters(cls: type, name: str) -> str:
    """`(self, lin)`: the parameters of an abstract method, without types."""
    method = getattr(cls, name)
    return f"({', '.join(inspect.signature(method).parameters)})" if callable(method) else ""
