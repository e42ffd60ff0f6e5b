"""Initial guesses: any callable `(f, s0, inputs, length) -> (T, *batch, D)` serves as `guess`; so does a tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.methods.arguments import check_count
from lds_iter.methods.spelling import Composable
from lds_iter.recurrence import take_rows

Function = Callable[[Tensor, Any], Tensor]
Guess = Callable[[Function, Tensor, Any, int], Tensor]


def repeat_initial(f: Function, s0: Tensor, inputs: Any, length: int) -> Tensor:
    """`s_t = s0` for all t: the default; zeros for a network that starts from zeros.

    Args:
        f: see `solve`.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        length: T.

    Returns:
        The guess, `(T, *batch, D)`.
    """
    return s0.expand(length, *s0.shape)


def step_from_zero(f: Function, s0: Tensor, inputs: Any, length: int) -> Tensor:
    """`s_t = f(0, u_t)`: what the input alone makes of the state; one evaluation of `f`.

    Args:
        f: see `solve`.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        length: T.

    Returns:
        The guess, `(T, *batch, D)`.
    """
    return f(torch.zeros_like(s0).expand(length, *s0.shape).contiguous(), inputs)


@dataclass(frozen=True)
class Coarse(Composable):
    """A guess from a coarse solve, as in Parareal (Lions, Maday, Turinici 2001): step over `stride` times at once.

    Runs `step` over every `stride`-th row of the inputs, one after the other, T / stride steps in all, and joins the
    states found by straight lines.

    Attributes:
        stride: time steps that a coarse step covers.
        step: the coarse step, with the signature of `f`: a solver of an ordinary differential equation with a larger
            step, a sampler with fewer levels.

    Raises:
        ValueError: for a `stride` that is no whole number of 1 or more.
        TypeError: for a `step` that is no function.
    """

    stride: int
    step: Function

    def __post_init__(self) -> None:
        check_count("stride", self.stride, least=1)
        if isinstance(self.step, type) or not callable(self.step):
            raise TypeError(f"`step` must be a function (s, u) -> s of one coarse step, got {self.step!r}.")

    def __call__(self, f: Function, s0: Tensor, inputs: Any, length: int) -> Tensor:
        knots, s = [s0], s0.unsqueeze(0)
        for t in range(0, length, self.stride):
            s = self._stepped(s, take_rows(inputs, t, t + 1))
            knots.append(s[0])
        times = torch.arange(1, length + 1, device=s0.device)
        left, weight = torch.div(times - 1, self.stride, rounding_mode="floor"), ((times - 1) % self.stride + 1)
        weight = (weight / self.stride).to(s0.dtype).view(-1, *[1] * s0.ndim)
        nodes = torch.stack(knots)
        return torch.lerp(nodes[left], nodes[left + 1], weight)

    def _stepped(self, s: Tensor, u: Any) -> Tensor:
        after = self.step(s, u)
        if not isinstance(after, Tensor) or after.shape != s.shape:
            got = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(f"`step` must return the shape of its state, {tuple(s.shape)}, got {got}.")
        return after
