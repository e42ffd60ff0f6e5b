"""Initial guesses: any callable `(f, s0, inputs, length) -> (T, *batch, D)` serves as `guess`; so does a tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor, Any], Tensor]
Guess = Callable[[Function, Tensor, Any, int], Tensor]


def repeat_initial(f: Function, s0: Tensor, inputs: Any, length: int) -> Tensor:
    """`s_t = s0` for all t: the default; zeros for a network that starts from zeros."""
    return s0.expand(length, *s0.shape)


def step_from_zero(f: Function, s0: Tensor, inputs: Any, length: int) -> Tensor:
    """`s_t = f(0, u_t)`: what the input alone makes of the state; one evaluation of `f`."""
    return f(torch.zeros_like(s0).expand(length, *s0.shape).contiguous(), inputs)
