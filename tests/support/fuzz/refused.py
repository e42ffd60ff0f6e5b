"""Calls with one argument that cannot work, which is named in an error before anything is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from fuzz.cases import arguments, composed
from fuzz.draw import Draw
from fuzz.hostile import honest


@dataclass(frozen=True)
class Refusal:
    """A call of `solve` and the argument that must be named.

    Attributes:
        name: the argument.
        arguments: of the call.
    """

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"`{self.name}` = {self.arguments[self.name]!r}, {self.arguments['method']}"


def refused_case(draw: Draw, seed: int) -> Refusal:
    batch, width, length = draw.one_of(((), (1,), (3,), (2, 2))), draw.integer(1, 4), draw.integer(1, 24)
    dtype = draw.one_of((torch.float32, torch.float64))
    s0, inputs = arguments(draw, batch, width, length, dtype)
    given: dict[str, Any] = {"f": honest, "s0": s0, "inputs": inputs, "method": composed(draw, width).method}
    name, value = draw.one_of(_wrong(draw, s0, inputs))
    return Refusal(name, {**given, name: value})


def _spoiled(draw: Draw, x: Tensor) -> Tensor:
    """With one number that is not finite."""
    x = x.clone(memory_format=torch.contiguous_format)
    x.view(-1)[draw.integer(0, x.numel() - 1)] = draw.one_of((torch.nan, torch.inf, -torch.inf))
    return x


def _wrong(draw: Draw, s0: Tensor, inputs: Tensor) -> list[tuple[str, Any]]:
    length, nan, inf = len(inputs), float("nan"), float("inf")
    guess = torch.zeros(length, *s0.shape, dtype=s0.dtype)
    tolerance = draw.one_of(("rtol", "atol"))
    return [
        ("guess", _spoiled(draw, guess)),
        ("guess", lambda f, s0, inputs, length: _spoiled(draw, guess)),
        ("guess", guess[1:]),
        ("guess", guess.to(torch.float64 if s0.dtype == torch.float32 else torch.float32)),
        ("guess", guess.tolist()),
        (tolerance, draw.one_of((nan, -1.0, inf, "1e-3", True, -inf, 10**400, [1e-3], torch.ones(2)))),
        ("s0", _spoiled(draw, s0)),
        ("s0", s0.new_zeros(0, *s0.shape)),
        ("s0", s0.new_zeros(*s0.shape[:-1], 0)),
        ("s0", draw.one_of((s0.half(), s0.int(), s0 + 0j, s0.tolist(), None, s0 > 0))),
        ("inputs", _spoiled(draw, inputs)),
        ("inputs", draw.one_of((inputs[:0], None, {}, (inputs, 0.5), inputs.tolist(), 3, inputs[0, ..., 0].sum()))),
        ("window", draw.one_of((0, -1, 2.5, "3", True, nan, torch.tensor(2)))),
        ("max_iters", draw.one_of((-1, 2.5, "3", True, nan, inf))),
        ("method", draw.one_of((li.Newton, "newton", 3, li.Diagonal(torch.ones(2, 2)), torch.nn.GRU))),
        ("adjoint", draw.one_of((li.Unroll, "implicit", 3, li.Newton()))),
        ("callback", draw.one_of((3, "print", [print]))),
        ("stop", draw.one_of((3, "now", lambda seen: seen.residual, lambda seen: True, lambda seen: None))),
        ("f", draw.one_of((None, 3, "tanh", torch.nn.Linear, torch.ones(3)))),
    ]  # fmt: skip


def check_refused(refusal: Refusal) -> list[str]:
    """A TypeError or ValueError that names the argument."""
    given = dict(refusal.arguments)
    f, s0, inputs, method = (given.pop(name) for name in ("f", "s0", "inputs", "method"))
    try:
        li.solve(f, s0, inputs, method, **given)
    except (TypeError, ValueError) as error:
        named = f"`{refusal.name}" in str(error)
        return [] if named else [f"words: {type(error).__name__}: {str(error)[:200]!r} does not name `{refusal.name}`"]
    except Exception as error:
        return [f"words: {type(error).__name__}: {str(error)[:200]!r}"]
    return ["refused: the call was accepted"]
