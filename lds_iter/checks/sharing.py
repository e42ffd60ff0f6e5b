"""Checks of a solve whose time steps several processes share: what it does not do, and what must be alike."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from lds_iter._torch import under_jvp
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.gradients.unroll import Unroll
from lds_iter.guesses import Coarse
from lds_iter.loop.state import AbstractStrategy
from lds_iter.recurrence import own_iterate


def check_shareable(f: Any, method: Any, guess: Any, adjoint: AbstractAdjoint | None) -> None:
    """What works with `mesh`.

    Raises:
        TypeError: for what does not.
    """
    if isinstance(method, AbstractStrategy):
        raise TypeError(
            f"`mesh` needs one method for all ranks, got {type(method).__name__}, which chooses by the clock of each. "
            "Type method=li.Newton(), or what `Auto` decides for a shorter sequence."
        )
    if isinstance(adjoint, AbstractAdjoint) and isinstance(getattr(adjoint, "method", None), AbstractStrategy):
        raise TypeError("`mesh` needs one method for the adjoint too. Type adjoint=li.Implicit(method=li.Newton()).")
    if own_iterate(f) is not None:
        raise TypeError(
            f"`mesh` runs iterations that talk to other ranks, which no compiled graph holds, got an `f` of "
            f"{type(f).__name__}. Give `solve` the recurrence itself; it may call compiled functions inside."
        )
    if isinstance(adjoint, Unroll):
        raise TypeError(
            "`mesh` has no backpropagation through its iterations: messages between ranks carry no graph. Leave "
            "`adjoint` out; the implicit gradient is exact at convergence."
        )
    if isinstance(guess, Coarse):
        raise TypeError(
            "`mesh` has no guess by `Coarse`, which steps through all of time on one process. Give this rank's rows of "
            "a guess as a tensor, (rows, *batch, D)."
        )
    if under_jvp():
        raise TypeError(
            "`mesh` has no forward-mode derivatives (torch.func.jvp, jacfwd). Use `.backward()` or "
            "torch.autograd.grad on the states."
        )


def in_words(value: Any) -> str:
    """An argument in words that are the same in every process: no addresses, and of tensors dtype, shape and sum."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (in_words(getattr(value, field.name)) for field in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {tuple(value.shape)} with sum {float(value.detach().sum()):.9g}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(in_words, value))})"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)
