"""One random call of `solve`, drawn from one seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from fuzz import honest, methods
from fuzz.draw import Draw

LONGEST, WIDEST = 24, 4
BATCHES = ((), (), (1,), (3,), (2, 2), (1, 2))


@dataclass(frozen=True)
class Case:
    """The arguments of one call, with what the laws need to know of them.

    Attributes:
        seed: repeats the case.
        f: the recurrence.
        method: the method.
        s0, inputs: of the call.
        options: the keyword arguments of the call.
    """

    seed: int
    f: honest.Honest
    method: methods.Drawn
    s0: Tensor
    inputs: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {
            name: f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else value
            for name, value in self.options.items()
        }
        return (
            f"seed {self.seed}: f = {self.f.name}, s0 {tuple(self.s0.shape)} {self.s0.dtype}, T = {len(self.inputs)}, "
            f"{self.method.method}, {shown}"
        )


def solve_case(draw: Draw, seed: int) -> Case:
    """A call that must succeed, or fail with the codes that it should."""
    dtype = draw.one_of((torch.float32, torch.float64))
    batch, width, length = draw.one_of(BATCHES), draw.integer(1, WIDEST), draw.integer(1, LONGEST)
    f = honest.honest(draw, width, dtype)
    s0, inputs = arguments(draw, batch, width, length, dtype)
    drawn = composed(draw, width)
    options = {**tolerances(draw), **limits(draw, length), "throw": False}
    if draw.happens(0.5):
        options["guess"] = guess(draw, f.f, s0, inputs, drawn.method)
    if draw.happens(0.15):
        options["record"] = True
    if draw.happens(0.1):
        options["stop"] = stop_rule(draw)
    return Case(seed, f, drawn, s0, inputs, options)


def gradient_case(draw: Draw, seed: int) -> Case:
    """A system in float64 whose errors do not grow, for gradients."""
    batch, width, length = draw.one_of(BATCHES), draw.integer(1, WIDEST), draw.integer(1, LONGEST)
    f = honest.honest(draw, width, torch.float64, differentiable=True)
    s0, inputs = arguments(draw, batch, width, length, torch.float64)
    drawn = composed(draw, width)
    options: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-13, "window": draw.one_of((None, None, 1, 3, length))}
    if drawn.finite and not drawn.timed and draw.happens(0.5):
        options["adjoint"] = li.Unroll()
    elif draw.happens(0.3):
        options["adjoint"] = li.Implicit(composed(draw, width).method, window=draw.one_of((None, 1, 5)))
    if "adjoint" in options or draw.happens(0.3):  # far from the solution: iterations carry all of `Unroll`'s gradient
        options["guess"] = draw.layout(100 * (1 + draw.normal(length, *s0.shape).abs()))
    if draw.happens(0.1):
        options["record"] = True
    return Case(seed, f, drawn, s0, inputs, options)


def composed(draw: Draw, width: int) -> methods.Drawn:
    """A method; drawn again where two do not compose, which their constructors say."""
    while True:
        try:
            return methods.method(draw, width)
        except TypeError as error:
            if "must be an instance of" not in str(error):
                raise


def arguments(draw: Draw, batch: tuple[int, ...], width: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`s0` and inputs in some layout, expanded over the batch now and then."""
    size = draw.one_of((0.0, 1.0, 1.0, 10.0))
    if draw.happens(0.2):
        s0 = (size * draw.normal(width, dtype=dtype)).expand(*batch, width)
    else:
        s0 = draw.layout(size * draw.normal(*batch, width, dtype=dtype))
    if draw.happens(0.15):
        inputs = draw.normal(length, *[1] * len(batch), width, dtype=dtype).expand(length, *batch, width)
    elif draw.happens(0.1):
        inputs = draw.normal(1, *batch, width, dtype=dtype).expand(length, *batch, width)
    else:
        inputs = draw.layout(draw.normal(length, *batch, width, dtype=dtype))
    return s0, inputs


def tolerances(draw: Draw) -> dict[str, float]:
    return draw.one_of(({}, {}, {"rtol": 0.0, "atol": 0.0}, {"rtol": 1e-300, "atol": 1e-300}, {"atol": 1e-2},
                        {"rtol": 0.0}, {"rtol": 1e-3, "atol": 0}))  # fmt: skip


def limits(draw: Draw, length: int) -> dict[str, int]:
    found = {}
    if draw.happens(0.5):
        found["window"] = draw.integer(1, length + 3)
    if draw.happens(0.15):
        found["max_iters"] = draw.integer(0, 4)
    return found


def stop_rule(draw: Draw) -> Any:
    """A rule of the library's, two of them combined, or a function."""
    simple = (li.Below(1e-2), li.Stalled(2, 0.5), li.After(3), li.SmallUpdate(1e-3))
    one, other = draw.one_of(simple), draw.one_of(simple)
    return draw.one_of((_small_residual, _half_way, _never, one, other, one | other, one & other, ~one))


def guess(draw: Draw, f: Callable[..., Tensor], s0: Tensor, inputs: Tensor, method: Any) -> Any:
    """A tensor of any character, or a policy."""
    length = len(inputs)
    shape = (length, *s0.shape)
    kind = draw.one_of(
        ("noise", "huge", "tiny", "denormal", "largest", "solved", "one off", "another", "cut off", "expanded", "step",
         "coarse", "policy")
    )  # fmt: skip
    if kind == "step":
        return li.step_from_zero if bool(f(torch.zeros_like(inputs), inputs).isfinite().all()) else li.repeat_initial
    if kind == "coarse":
        return li.Coarse(draw.integer(1, length + 1), lambda s, u: 0.5 * s)
    if kind == "policy":
        return lambda f, s0, inputs, length: torch.zeros(length, *s0.shape, dtype=s0.dtype)
    if kind == "expanded":
        return s0.new_ones(()).expand(shape)
    if kind in ("solved", "one off"):
        states = rows_of_loop(f, s0, inputs).nan_to_num(0.0, 1.0, -1.0)
        if kind == "one off":
            states[length // 2] = 1e20
        return draw.layout(states)
    if kind == "another":
        return li.solve(lambda s, u: 0.3 * torch.sin(s) + u, s0, inputs, li.Jacobi(), max_iters=2, throw=False).states
    if kind == "cut off":  # the states that the same call had reached when it was cut off
        return li.solve(f, s0, inputs, method, max_iters=2, throw=False).states.nan_to_num(0.0, 1.0, -1.0)
    sizes = {"noise": 1.0, "huge": 1e30, "tiny": 1e-30, "denormal": 1e-40}
    if kind == "largest":
        return torch.full(shape, torch.finfo(s0.dtype).max, dtype=s0.dtype)  # whose sum overflows, but which is finite
    return draw.layout(sizes[kind] * draw.normal(*shape, dtype=s0.dtype))


def rows_of_loop(f: Callable[..., Tensor], s0: Tensor, inputs: Tensor) -> Tensor:
    """The plain loop, one row at a time, on copies."""
    states, s = [], s0
    for t in range(len(inputs)):
        s = f(s[None].clone(), inputs[t : t + 1].clone())[0].clone()
        states.append(s)
    return torch.stack(states)


def _small_residual(progress: li.Progress) -> Tensor:
    return progress.residual < 1e-2


def _half_way(progress: li.Progress) -> Tensor:
    return progress.iterations >= 3


def _never(progress: li.Progress) -> Tensor:
    return torch.zeros_like(progress.residual, dtype=torch.bool)
