"""From a cell and its arguments to those of `solve`, and from the states of `solve` back to those of the cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.errors import note_source, shapes_of
from lds_iter.nn._weights import WEIGHT_NAMES
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.rnn import RNNRecurrence
from lds_iter.recurrence import fold, ravel


@dataclass(frozen=True)
class CellProblem:
    """A cell as the arguments of `solve`, and the way back from its states to those of the cell."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    unpack: Callable[[Tensor], Any]


def cell_problem(cell: Any, x: Tensor, state: Any) -> CellProblem:
    """The recurrence of a cell.

    Args:
        cell: a cell of torch, a recurrence that knows its derivatives, or any function `(x, state) -> state`.
        x: the inputs, `(T, B, ...)`.
        state: the state before the first step, as the cell takes it.
    """
    if isinstance(cell, torch.nn.LSTMCell):
        f = LSTMRecurrence(**_weights(cell))
        return CellProblem(f, f.pack(*state), f.inputs(x), f.unpack)
    if isinstance(cell, torch.nn.RNNCell | torch.nn.GRUCell) or hasattr(cell, "linearize"):
        f: Any = cell
        if isinstance(cell, torch.nn.RNNCell):
            f = RNNRecurrence(**_weights(cell), nonlinearity=cell.nonlinearity)  # pyright: ignore[reportArgumentType]
        elif isinstance(cell, torch.nn.GRUCell):
            f = GRURecurrence(**_weights(cell))
        inputs = f.inputs(x) if callable(getattr(f, "inputs", None)) else x
        return CellProblem(f, state, inputs, lambda states: states)
    s0, unravel = ravel(state, batch_dims=1)

    def step(s: Tensor, x: Any) -> Tensor:
        state = unravel(s)
        try:
            after = cell(x, state)
        except Exception as error:
            note_source(
                error,
                f"`cell(x, state)`, called with x {shapes_of(x)} and state {shapes_of(state)}; their first dimension "
                "holds time steps and batch together.",
            )
            raise
        return ravel(after, batch_dims=1)[0]

    return CellProblem(fold(step), s0, x, unravel)


def _weights(cell: torch.nn.RNNCellBase) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in WEIGHT_NAMES if getattr(cell, name, None) is not None}
