"""What `f` and a method must not do while the loop runs: checked at every call, at the cost of comparing numbers.

The contract of `f` is checked before the first iteration (see `lds_iter.checks`). What only a later call breaks is found
here: another shape or type, writing into the states, an error inside.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import shares_memory
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.base import LDSApproximation


def check_value(value: Any, prev: Tensor) -> Tensor:
    """`f(prev, u)`: a tensor like `prev`."""
    if isinstance(value, Tensor) and value.shape == prev.shape and value.dtype == prev.dtype:
        return value
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"`f` must return the same kind of tensor at every call: given states {prev.dtype} {tuple(prev.shape)} it "
        f"returned {got}, and did not in the check before the first iteration. In order of likelihood: it depends on "
        "the number of rows; it counts its calls or changes what it keeps; it has branches that return different "
        "types. `f` must map every row by itself, the same at every call."
    )


def check_proposal(method: LDSApproximation, answer: Any, lin: Linearization) -> tuple[Tensor, Any]:
    """What `update` returned: `(d, carry)`, `d` like the residual."""
    name = type(method).__name__
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"`{name}.update` must return `(d, carry)`, got {_described(answer)}. A method that remembers nothing "
            "returns `d, None`."
        )
    d, carry = answer
    residual = lin.residual
    if not isinstance(d, Tensor) or d.shape != residual.shape or d.dtype != residual.dtype:
        raise ValueError(
            f"`{name}.update` must propose an update like the residual, {residual.dtype} {tuple(residual.shape)}, got "
            f"{_described(d)}."
        )
    return d, carry


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@contextlib.contextmanager
def check_untouched(tensors: tuple[Tensor, ...], who: str) -> Iterator[None]:
    """Raise if these states or values are written into meanwhile."""
    if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in tensors):
        yield
        return
    before = [tensor._version for tensor in tensors]
    yield
    if [tensor._version for tensor in tensors] != before:
        raise ValueError(
            f"{who} writes into the states that it is given, which the loop reads again. Write `s = s * ...` in place "
            "of `s.mul_(...)`, or start with `s = s.clone()`."
        )


@contextlib.contextmanager
def explained(extent: Any, state: Any) -> Iterator[None]:
    """Say of an error inside of `f` or a method at which time steps and in which iteration it came."""
    if torch.compiler.is_compiling():
        yield
        return
    try:
        yield
    except Exception as error:
        where = f"time steps {extent.start} to {extent.stop - 1} (counted from 0), iteration {state.count}"
        note = f"This came up in a solve, at {where}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def own_memory(value: Any, owned: tuple[Tensor, ...]) -> Any:
    """A pytree or dataclass with a copy of every tensor that shares memory with one that the loop owns."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if torch.compiler.is_compiling():
            return value
        expanded = 0 in value.stride() and value.numel() > 1
        return value.clone() if expanded or any(shares_memory(value, tensor) for tensor in owned) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _rebuilt(value, owned)
    if type(value) in pytree.SUPPORTED_NODES:
        return pytree.tree_map(lambda leaf: own_memory(leaf, owned), value)
    return value


def _rebuilt(value: Any, owned: tuple[Tensor, ...]) -> Any:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    made = {name: own_memory(field, owned) for name, field in fields.items()}
    same = all(made[name] is field for name, field in fields.items())
    return value if same else dataclasses.replace(value, **made)
