"""The plain loop over time: the reference of every method, in compiled steps where `f` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import has_tangent
from lds_iter.checks import check_problem
from lds_iter.loop.notes import explained
from lds_iter.recurrence import check_value, own_steps, take_rows


@explained
def sequential(f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any) -> Tensor:
    """The plain loop over time, `s_t = f(s_{t-1}, u_t)`: the reference, and the way out that always works.

    Differentiable by ordinary autograd, any number of times. Where no gradient is wanted and `f` has compiled steps,
    these run.

    Args:
        f, s0, inputs: see `solve`.

    Returns:
        The states `(T, *batch, D)`.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
    """
    length, _, first = check_problem(f, s0, inputs, None, None)
    if not torch.is_grad_enabled() and not has_tangent(first):
        return _without_graph(f, s0, inputs, length)
    states, s = [], s0.unsqueeze(0)
    for t in range(length):
        s = _stepped(f, s, inputs, t)
        states.append(s)
    return torch.cat(states)


def _without_graph(f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any, length: int) -> Tensor:
    """The same where no gradient is wanted: by compiled steps where `f` has them, else into one tensor."""
    own = own_steps(f)
    done = None if own is None else own(s0, inputs)
    if done is not None:
        return done
    states, s = s0.new_empty(length, *s0.shape), s0.unsqueeze(0)
    for t in range(length):
        states[t : t + 1] = _stepped(f, s, inputs, t)
        s = states[t : t + 1]
    return states


def _stepped(f: Callable[[Tensor, Any], Tensor], s: Tensor, inputs: Any, t: int) -> Tensor:
    """One step; an error inside of it gets a note of when."""
    try:
        return check_value(f(s, take_rows(inputs, t, t + 1)), s)
    except Exception as error:
        error.add_note(f"This came up in the plain loop, at time step {t} (counted from 0).")
        raise
