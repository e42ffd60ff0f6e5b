"""Notes on errors that come up inside of `f`: how it was called, and what to check."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.errors import note_source, shapes_of, source_is_named
from lds_iter.methods.spelling import spelled

P = ParamSpec("P")
R = TypeVar("R")

PRODUCT = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
CELL = re.compile(r"inconsistent \w+_size: got (\d+),? expected (\d+)")
ELEMENTWISE = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")


def note_on_call(error: Exception, s: Tensor, inputs: Any) -> None:
    """A note on an error inside of `f`: the shapes that it was given, and what to check, most likely first.

    Args:
        error: what `f` raised.
        s: the states, `(n, *batch, D)`.
        inputs: of these rows.
    """
    if source_is_named(error):
        return
    steps = isinstance(inputs, list) and len(inputs) > 2
    note_source(
        error,
        f"`f`, called with states {tuple(s.shape)} and inputs {shapes_of(inputs)}."
        + _on_widths(str(error), s, inputs)
        + " Time comes first and D last in both: `x.transpose(0, 1)` for data that leads with the batch, "
        "`li.fold(module)` for a module that takes (N, D)."
        + (" For a list of time steps type `torch.stack(inputs)`." if steps else "")
        + flat_inputs(s, inputs),
    )


def _on_widths(text: str, s: Tensor, inputs: Any) -> str:
    """What the sizes in torch's words mean for the states and the inputs; empty for other errors."""
    if found := PRODUCT.search(text) or CELL.search(text):
        given, taken = int(found[1]), int(found[2])
        return (
            f" A layer or matrix in it takes rows of {taken} numbers and got {given}{_owners((given,), s, inputs)}: "
            "check the last dimension of `s0` and of `inputs` against the width that it was made for."
        )
    if found := ELEMENTWISE.search(text):
        sizes = int(found[1]), int(found[2])
        return (
            f" It combines tensors with {sizes[0]} and {sizes[1]} entries along one dimension"
            f"{_owners(sizes, s, inputs)}; these must be equal, or one of them 1."
        )
    return ""


def _owners(widths: tuple[int, ...], s: Tensor, inputs: Any) -> str:
    """Whose last dimension each width is, where that is certain."""
    d = s.shape[-1]
    others = {leaf.shape[-1] for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim > 1}
    whose = []
    for width in widths:
        if width == d and width not in others:
            whose.append(f"{width} is D of `s0`")
        elif width in others and width != d:
            whose.append(f"{width} is the last dimension of `inputs`")
        elif width in {d + other for other in others}:
            whose.append(f"{width} is D of `s0` and the last dimension of `inputs` together")
    return f" ({', '.join(whose)})" if whose else ""


def flat_inputs(s: Tensor, inputs: Any) -> str:
    """A hint for inputs `(T)` beside states `(*batch, D)`: their time broadcasts against D."""
    flat = any(isinstance(leaf, Tensor) and leaf.ndim == 1 for leaf in pytree.tree_leaves(inputs))
    return " An input of shape (T,) broadcasts against D: type `x.unsqueeze(-1)`." if flat and s.ndim > 1 else ""


def note_on_derivatives(error: RuntimeError) -> None:
    """A note on an error of torch's that says that `f` left torch, where its derivative was asked for."""
    if "data-dependent control flow" in str(error) or "is_nonzero" in str(error):
        error.add_note(
            "A solve looks at its numbers, which torch.func.vmap does not allow. Put the dimension that is mapped over "
            "into the batch: `s0` (*batch, D) and `inputs` (T, *batch, ...) are solved side by side."
        )
    if "random operation" in str(error):
        error.add_note(
            "This came from the derivative of `f`, which draws random numbers. Draw them once and pass them in "
            "`inputs`; call `.eval()` for dropout. `li.Jacobi()` and `li.Picard()` need no derivative."
        )
    if "saved tensor hooks" in str(error):
        error.add_note(
            "This came from a compiled derivative of `f`, which calls torch.utils.checkpoint. Leave the checkpoint "
            "out, or solve uncompiled: li.solve(compiled.f, ...)."
        )
    if any(words in str(error) for words in ("doesn't have storage", "captured Tensor", "forward AD", "forward-mode")):
        error.add_note(
            "This came from the derivative of `f`. In order of likelihood: it leaves torch on the way (numpy, "
            "`torch.from_numpy`); it writes into a tensor that it did not make (batch norm in training mode does: call "
            "`.eval()`); it calls an operation without a derivative. `li.Jacobi()` and `li.Picard()` need "
            "none; an `f` may also bring its own, by a method `linearize`."
        )


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: explain an unknown keyword by the nearest one, and an error inside of a derivative by its cause."""

    @functools.wraps(function)
    def noted(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            note_on_derivatives(error)
            raise

    return spelled(noted)
