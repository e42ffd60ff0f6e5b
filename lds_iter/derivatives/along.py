"""`f` along a trajectory outside of the loop, where nothing is accepted and every row may move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import linearize, with_derivatives
from lds_iter.derivatives.linearization import Linearization
from lds_iter.recurrence import Function, take_rows


def linearization(f: Function, s0: Tensor, states: Tensor, inputs: Any) -> Linearization:
    """`f` along any trajectory, outside of the loop: nothing is accepted, every row may move.

    Args:
        f: see `solve`.
        s0: the state before the first step, `(*batch, D)`.
        states: the trajectory, `(T, *batch, D)`.
        inputs: a pytree of tensors that lead with T.
    """
    prev = torch.cat([s0.unsqueeze(0), states[:-1]])
    return next(linearize_along(f, prev, states, inputs, rows=states.shape[0], iteration=0))


def linearize_along(
    f: Function, prev: Tensor, states: Tensor, inputs: Any, *, rows: int, iteration: int
) -> Iterator[Linearization]:
    """`f` along a trajectory outside of the loop, a stretch of rows at a time.

    Args:
        f: the recurrence.
        prev: the states before each step, `(T, *batch, D)`.
        states: the states after each step, `(T, *batch, D)`.
        inputs: of all T steps.
        rows: time steps of one linearization.
        iteration: how many updates the rows pretend to have had.
    """
    f, length = with_derivatives(f), prev.shape[0]
    everyone = torch.ones(prev.shape[1:-1], dtype=torch.bool, device=prev.device)
    for first in range(0, length, rows):
        some = slice(first, min(first + rows, length))
        u = take_rows(inputs, some.start, some.stop)
        derivatives = linearize(f, prev[some], u)
        residual = derivatives.value - states[some]
        yield Linearization(prev[some], states[some], residual, derivatives, u, some, length, iteration, everyone, _f=f)
