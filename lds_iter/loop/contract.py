"""Checks of `f` and of the method at every call in the loop, at the cost of comparing a few numbers.

The contract of `f` is checked before the first iteration (see `checks/probes.py`). Here is found what only a later call
breaks: a value of another shape or dtype, writing into the states, an error inside `f` or the method.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.autodiff import linearize
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.linearization import Linearization
from lds_iter.errors import source_is_named
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import Function

CAME_UP = "This came up in a solve"

TimeSteps = tuple[int, int, int]
"""The first time step, the one after the last, and the iteration, as numbers: a compiler cannot trace their text."""


def linearized(f: Function, prev: Tensor, inputs: Any, states: Tensor, where: TimeSteps) -> AbstractDerivatives:
    """`f` and its derivatives at `prev`, which is part of `states`; `where` goes into a note on an error inside."""
    with _guarded((states, *_tensors_of(inputs)), "`f`", "`f`", where):
        return linearize(f, prev, inputs)


def proposed(
    method: LDSApproximation, lin: Linearization, carry: Any, states: Tensor, where: TimeSteps
) -> tuple[Tensor, Any]:
    """The update that a method proposes, and its next carry, neither in memory that the loop owns.

    Args:
        method: the LDS approximation.
        lin: `f` along the guess.
        carry: of the iteration before.
        states: of the loop, of which parts are in `lin`.
        where: for a note on an error inside.
    """
    name = f"`{type(method).__name__}.update`"
    owned = (states, lin.derivatives.value, *_tensors_of(lin.inputs))
    with _guarded(owned, f"`f` or {name}", f"{name}, which may evaluate `f` and its derivatives", where):
        answer = method.update(lin, carry)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"{name} must return `(d, carry)`, got {_described(answer)}. A method that remembers nothing returns "
            "`d, None`."
        )
    d, residual = answer[0], lin.residual
    if not isinstance(d, Tensor) or d.shape != residual.shape or d.dtype != residual.dtype:
        raise ValueError(
            f"{name} must propose an update like the residual, {residual.dtype} {tuple(residual.shape)}, got "
            f"{_described(d)}."
        )
    d = _own_memory(d, (states, lin.derivatives.value, residual))
    return d, _own_memory(answer[1], (states, d))


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _shown(where: TimeSteps) -> str:
    first, stop, count = where
    return f"time steps {first} to {stop - 1} (counted from 0), iteration {count}"


@contextlib.contextmanager
def _guarded(tensors: tuple[Tensor, ...], who: str, whose: str, where: TimeSteps) -> Iterator[None]:
    """Raise if these tensors are written into; add to an error inside a note on whose it is, and where it came up."""
    if torch.compiler.is_compiling():
        yield
        return
    before = versions(tensors)
    try:
        yield
    except Exception as error:
        note_where(error, whose, where)
        raise
    check_unwritten(tensors, before, who)


def note_where(error: Exception, whose: str, where: TimeSteps) -> None:
    """A note on an error inside of a call of the user's: whose it is, and where it came up."""
    if not any(note.startswith(CAME_UP) for note in getattr(error, "__notes__", ())):
        inside = "" if source_is_named(error) else f", inside of {whose},"
        error.add_note(f"{CAME_UP}{inside} at {_shown(where)}.")


def versions(tensors: tuple[Tensor, ...]) -> list[int] | None:
    """How often each tensor has been written into; None for tensors of inference mode, which do not count."""
    return None if any(tensor.is_inference() for tensor in tensors) else [tensor._version for tensor in tensors]


def check_unwritten(tensors: tuple[Tensor, ...], before: list[int] | None, who: str) -> None:
    """Raise if `who` has written into one of these tensors since `before`, their `versions`."""
    if before is not None and [tensor._version for tensor in tensors] != before:
        raise ValueError(
            f"{who} writes into the states or inputs given to it, which the loop reads again. Write `s = s * ...` in "
            "place of `s.mul_(...)`, or start with `s = s.clone()`."
        )


def _tensors_of(inputs: Any) -> tuple[Tensor, ...]:
    """The tensors of a pytree."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    return tuple(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))


def _own_memory(value: Any, owned: tuple[Tensor, ...]) -> Any:
    """A pytree or dataclass with a copy of every tensor that shares memory with one that the loop owns."""
    if value is None or torch.compiler.is_compiling():
        return value
    if isinstance(value, Tensor):
        expanded = 0 in value.stride() and value.numel() > 1
        return value.clone() if expanded or any(shares_memory(value, tensor) for tensor in owned) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _rebuilt(value, owned)
    if type(value) in pytree.SUPPORTED_NODES:
        return pytree.tree_map(lambda leaf: _own_memory(leaf, owned), value)
    return value


def _rebuilt(value: Any, owned: tuple[Tensor, ...]) -> Any:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    made = {name: _own_memory(field, owned) for name, field in fields.items()}
    same = all(made[name] is field for name, field in fields.items())
    return value if same else dataclasses.replace(value, **made)


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are views of one memory."""
    if one.numel() == 0 or one.device != other.device:
        return False
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # tensors under a transform of torch.func have no storage
        return False
