"""Checks of transitions, and of what a scan is given: what was expected, what came, and what to type instead."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from lds_iter.linear.transitions import (
    AbstractTransition,
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    ScaledIdentity,
    Zero,
    leaves,
)

LEAF = {Dense: "matrix", BlockDiagonal: "blocks", Diagonal: "diagonal", ScaledIdentity: "scale"}
"""The field of each structure that holds its numbers."""

NARROWER = (torch.bfloat16, torch.float16)
"""What a transition may be in beside states in full precision, where it is allowed to be narrower."""


def check_is_transition(
    transition: Any, like: Tensor, who: str, name: str = "lin.residual", *, narrower: bool = False
) -> None:
    """Check that something is a transition for the rows of `like`.

    Args:
        transition: what came.
        like: a tensor `(n, *batch, D)`, such as the residual.
        who: begins the message, such as "`Mine` must choose".
        name: of `like`, for what to type.
        narrower: whether the transition may be in half precision, which kernels read as it is.

    Raises:
        TypeError: for something else, or another dtype or device.
        ValueError: for tensors of other shapes.
    """
    if _plainly_is(transition, like):
        return
    if not isinstance(transition, AbstractTransition):
        raise TypeError(
            f"{who} a transition such as li.Dense(matrices), got {_described(transition)}.{_hint(transition, like)}"
        )
    if not dataclasses.is_dataclass(transition):
        raise TypeError(f"{who} a transition that is a dataclass: put `@dataclass(frozen=True)` before its class.")
    kind, known = type(transition), type(transition) in LEAF
    if known:
        _check_field(transition, who)
    for leaf in leaves(transition):
        wanted, fits = _fits(kind, tuple(leaf.shape), tuple(like.shape))
        if not fits:
            raise ValueError(
                f"{who} {kind.__name__} with tensors of shape ({', '.join(map(str, wanted))}) for these "
                f"{like.shape[0]} rows, (n, *batch, ...), got {tuple(leaf.shape)}. Time comes first; expand what is "
                "the same at every time: `a.expand(n, *a.shape[1:])`."
            )
        alike = leaf.device == like.device and leaf.layout is like.layout
        halved = narrower and leaf.dtype in NARROWER
        if not alike or (known and leaf.dtype != like.dtype and not halved):
            layout = "" if leaf.layout is like.layout else f" of layout {leaf.layout}"
            raise TypeError(
                f"{who} {kind.__name__} with tensors of {like.dtype} on {like.device} like `{name}`, got {leaf.dtype} "
                f"on {leaf.device}{layout}. Type `a.to({name})`; for transitions in fewer bits there is "
                "li.LowPrecision."
            )


def _plainly_is(transition: Any, like: Tensor) -> bool:
    """The usual case, told in a few comparisons, for the check is made at every iteration."""
    kind = type(transition)
    if kind is not Dense and kind is not Diagonal:
        return kind is Identity or kind is Zero
    leaf = getattr(transition, LEAF[kind])
    return (
        isinstance(leaf, Tensor)
        and leaf.shape == (like.shape if kind is Diagonal else (*like.shape, like.shape[-1]))
        and leaf.dtype == like.dtype
        and leaf.device == like.device
        and leaf.layout is like.layout
    )


def _hint(value: Any, like: Tensor) -> str:
    if not isinstance(value, Tensor):
        return ""
    structure = "Dense" if value.ndim > like.ndim else "Diagonal"
    return f" Say what structure it has: `li.{structure}(a)`."


def _check_field(transition: AbstractTransition, who: str) -> None:
    """The field of a structure of the library: a tensor, or for a multiple of the identity a number."""
    kind = type(transition)
    value = getattr(transition, LEAF[kind])
    number = kind is ScaledIdentity and isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, Tensor) and not number:
        also = " or a number" if kind is ScaledIdentity else ""
        raise TypeError(f"{who} {kind.__name__} whose `{LEAF[kind]}` is a tensor{also}, got {type(value).__name__}.")


def _fits(kind: type, shape: tuple[int, ...], like: tuple[int, ...]) -> tuple[tuple[object, ...], bool]:
    """The shape that a tensor of a structure must have beside `like`, in numbers and words; and whether it has."""
    *lead, width = like
    rest, tail = shape[len(lead) :], ("...",)
    if kind in (Dense, Diagonal, ScaledIdentity):
        tail = {Dense: (width, width), Diagonal: (width,), ScaledIdentity: (1,)}[kind]
    elif kind is BlockDiagonal:
        size = shape[-1] if len(shape) == len(like) + 2 and shape[-1] else 1
        tail = (width // size, size, size) if width % size == 0 else ("D // size", "size", "size")
    leads = len(shape) >= len(lead) and shape[0] == lead[0] and _broadcasts(shape[1 : len(lead)], lead[1:])
    return (*lead, *tail), leads and tail in (("...",), rest)


def _broadcasts(batch: tuple[int, ...], wanted: list[int]) -> bool:
    return len(batch) == len(wanted) and all(a in (1, b) for a, b in zip(batch, wanted, strict=True))


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def check_scan_arguments(transition: AbstractTransition, b: Any, initial: Any, out: Any) -> None:
    """The arguments of `linear_scan`: tensors of one dtype, on one device, that belong together.

    Raises:
        TypeError, ValueError: for others.
    """
    if not isinstance(b, Tensor) or not (b.is_floating_point() or b.is_complex()) or b.layout is not torch.strided:
        got = f"{b.dtype} {b.layout}" if isinstance(b, Tensor) else type(b).__name__
        raise TypeError(f"`b` must be a dense tensor of floating-point numbers, (n, *batch, D), got {got}.")
    if b.ndim < 2:
        raise ValueError(
            f"`b` must have shape (n, *batch, D), got {tuple(b.shape)}. For a sequence of numbers type "
            "`b.unsqueeze(-1)`."
        )
    check_is_transition(transition, b, "`transition` must be", "b", narrower=True)
    for name, tensor, shape in ("initial", initial, tuple(b.shape[1:])), ("out", out, tuple(b.shape)):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` must be a tensor {shape}, got {type(tensor).__name__}.")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"`{name}` must have shape {shape}, got {tuple(tensor.shape)}.")
        if tensor.dtype != b.dtype or tensor.device != b.device:
            raise TypeError(
                f"`{name}` must be {b.dtype} on {b.device} like `b`, got {tensor.dtype} on {tensor.device}. Type "
                f"`{name}.to(b)`."
            )
