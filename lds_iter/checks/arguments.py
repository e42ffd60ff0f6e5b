"""Checks of the arguments of `solve`. Each says what was expected, what came, and what to type instead."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.base import LDSApproximation, StatefulTransition


def check_state(s0: Any) -> None:
    """`s0`: a finite float32 or float64 tensor `(*batch, D)`."""
    if not isinstance(s0, Tensor):
        raise TypeError(
            f"`s0` must be a tensor of shape (*batch, D), got {type(s0).__name__}.{_as_tensor('s0', s0)} For a "
            "structured state such as (h, c), type `s0, unravel = li.ravel(state)` and unravel it inside `f`."
        )
    check_layout("s0", s0)
    if s0.is_meta:
        raise TypeError("`s0` is on the device meta, which holds no numbers; a solve looks at them.")
    if s0.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"`s0` is {s0.dtype}: residuals need at least float32. Type `s0.float()` and cast inside `f`.")
    if s0.is_complex():
        raise TypeError(
            f"`s0` must be float32 or float64, got {s0.dtype}. Type `torch.view_as_real(s0).flatten(-2)`, and inside "
            "`f` `torch.view_as_complex(s.unflatten(-1, (-1, 2)))` and back."
        )
    if s0.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"`s0` must be float32 or float64, got {s0.dtype}. Fixed-point iteration needs states that can move a "
            "little: type `s0.float()`, or run a recurrence on integers in a plain loop."
        )
    if s0.ndim == 0 or s0.numel() == 0:
        raise ValueError(
            f"`s0` must have shape (*batch, D) with nothing empty, got {tuple(s0.shape)}. For a scalar state type "
            "`s0.reshape(1)`."
        )
    if not bool(s0.isfinite().all()):
        raise ValueError("`s0` contains inf or NaN.")


def check_layout(name: str, tensor: Tensor) -> None:
    """A dense tensor that holds numbers."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(
            f"`{name}` must be an ordinary dense tensor, got {_kind(tensor)}. Type `{name}.to_dense()`, for quantized "
            f"ones `{name}.dequantize()`, or pad nested ones to one length."
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "a nested tensor"
    return "a quantized tensor" if tensor.is_quantized else f"one of layout {tensor.layout}"


def check_inputs(inputs: Any, s0: Tensor, argument: str = "inputs", least: int = 1) -> int:
    """`inputs`: a pytree of tensors on the device of `s0` that lead with the same T >= `least`, finite; returns T."""
    named = [
        (_name(argument, path), leaf) for path, leaf in pytree.tree_flatten_with_path(inputs)[0] if leaf is not None
    ]
    for name, leaf in named:
        if not isinstance(leaf, Tensor):
            hint = _as_tensor(argument, inputs)
            raise TypeError(
                f"`{name}` must be a tensor that leads with T, got {type(leaf).__name__}.{hint} What does not change "
                "over time belongs into `f`, as a closure."
            )
        check_layout(name, leaf)
        if leaf.ndim == 0:
            raise ValueError(f"`{name}` must lead with T, got a tensor without dimensions.")
        if leaf.device != s0.device:
            raise ValueError(f"`{name}` is on {leaf.device} but `s0` on {s0.device}: move one with `.to(...)`.")
    lengths = {name: leaf.shape[0] for name, leaf in named}
    if not lengths:
        raise ValueError(
            f"`{argument}` has no tensor, so T is unknown. For a recurrence without inputs pass torch.arange(T)."
        )
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{argument}` must all lead with the same T, got {lengths}. Put time first: `x.transpose(0, 1)`."
        )
    length = next(iter(lengths.values()))
    if length < least:
        raise ValueError(f"`{argument}` has T = 0 time steps; there is nothing to evaluate.")
    for name, leaf in named:
        _check_finite(name, leaf)
    return length


def _as_tensor(name: str, value: Any) -> str:
    """What to type in place of an array, a number, a range or a list of numbers; empty for anything else."""
    if isinstance(value, int | range) and not isinstance(value, bool) and name in ("inputs", "xs"):
        return " For a recurrence without inputs type `torch.arange(T)`."
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if (hasattr(first, "__array__") and not isinstance(first, Tensor)) or isinstance(first, int | float):
        return f" Type `torch.as_tensor({name}, dtype=torch.float32)`."
    return ""


def _check_finite(name: str, leaf: Tensor) -> None:
    if not leaf.is_floating_point() or leaf.element_size() == 1 or bool(leaf.sum().isfinite()):  # no sums of float8
        return  # the sum is one cheap pass; it can only miss the mark towards the exact test below
    bad = ~leaf.isfinite().reshape(leaf.shape[0], -1).all(1)
    if bool(bad.any()):
        first = int(bad.to(torch.uint8).argmax())
        raise ValueError(f"`{name}` contains inf or NaN in {int(bad.sum())} time step(s), the first at t = {first}.")


def _name(argument: str, path: tuple[Any, ...]) -> str:
    return argument + "".join(str(key) for key in path)


def check_tolerance(name: str, value: Any, dtype: torch.dtype) -> float:
    """`rtol`, `atol`: a finite number, 0 or more, that the states' dtype can hold."""
    value = (1e-5 if dtype == torch.float32 else 1e-10) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= torch.finfo(dtype).max:
        raise ValueError(f"`{name}` must be a finite number, 0 or more, got {value!r}.")
    return float(value)


def check_flags(**flags: Any) -> None:
    """`record`, `progress`, `throw`: True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{name}` must be True or False, got {type(value).__name__}.")


def check_callable(name: str, value: Any) -> None:
    """`callback`, `stop`: a function of a `Progress`, or None."""
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise TypeError(f"`{name}` must be a function of a li.Progress, or None, got {value!r}.")


def check_adjoint(adjoint: Any) -> AbstractAdjoint:
    """`adjoint`: an instance."""
    check_instance("adjoint", adjoint, AbstractAdjoint, "li.Implicit() or li.Unroll()")
    return adjoint


def check_guess(guess: Any, s0: Tensor, length: int) -> None:
    """`guess`: a finite tensor `(T, *batch, D)` like the states."""
    if not isinstance(guess, Tensor):
        raise TypeError(
            f"`guess` must be a tensor (T, *batch, D) or a callable that returns one, got {type(guess).__name__}."
        )
    check_layout("guess", guess)
    expected = (length, *s0.shape)
    if tuple(guess.shape) != expected:
        raise ValueError(f"`guess` must have the shape of the states, {expected}, got {tuple(guess.shape)}.")
    if guess.dtype != s0.dtype or guess.device != s0.device:
        raise TypeError(f"`guess` must be {s0.dtype} on {s0.device}, got {guess.dtype} on {guess.device}.")
    if not bool(guess.sum().isfinite()) and not bool(guess.isfinite().all()):
        raise ValueError("`guess` contains inf or NaN. Leave it out to start from `s0` repeated.")


def checked_method(method: Any, *, transition: bool = False) -> Any:
    """`method`: an instance of the right kind."""
    kind = StatefulTransition if transition else LDSApproximation
    if transition or not isinstance(method, AbstractStrategy):
        check_instance("method", method, kind, "li.Newton()")
    return method


def check_numbers(length: int, **numbers: int | None) -> dict[str, int]:
    """Whole numbers that mean T when None; `max_iters=0`, which only evaluates the guess, makes sense."""
    checked = {}
    for name, number in numbers.items():
        least = 1 if name == "window" else 0
        whole = length if number is None else _whole(number)
        if whole is None or whole < least:
            raise ValueError(f"`{name}` must be a whole number, {least} or more, or None for T; got {number!r}.")
        checked[name] = whole
    return checked


def _whole(number: Any) -> int | None:
    """A whole number of any kind as an int (numpy's too); None where it is none."""
    if isinstance(number, bool) or not hasattr(number, "__index__") or isinstance(number, Tensor):
        return None
    return operator.index(number)
