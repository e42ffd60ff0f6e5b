"""Recurrences that keep the contract of `f`: of every character, in every way of writing them.

Most are written so that a row rounds alike in whatever company it is evaluated: products are sums over columns, one
after the other, since the rounding of a matrix product depends on its shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from fuzz.draw import Draw


@dataclass(frozen=True)
class Honest:
    """A recurrence and what the laws need to know of it.

    Attributes:
        name: for reports.
        f: the recurrence.
        reproducible: whether a row rounds alike in any company.
        smooth: whether the error of a step is bounded by the Jacobian; false where `f` jumps.
        differentiable: whether errors do not grow, or `f` is linear, so that gradients can be compared.
        parameter: a tensor that `f` depends on, for gradients; None without.
        scale: the size of intermediate results beside those of states, inputs and values.
    """

    name: str
    f: Callable[[Tensor, Any], Tensor]
    reproducible: bool = True
    smooth: bool = True
    differentiable: bool = False
    parameter: Tensor | None = None
    scale: float = 1.0


def product(s: Tensor, weight: Tensor) -> Tensor:
    """`s @ weight.T`, column by column."""
    total = s[..., :1] * weight[:, 0]
    for column in range(1, weight.shape[1]):
        total = total + s[..., column : column + 1] * weight[:, column]
    return total


def _elementwise(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    gain = draw.one_of((0.3, 0.8, 1.5, 3.0))
    kind = draw.one_of(("sine", "tanh"))
    act = torch.sin if kind == "sine" else torch.tanh
    weight = torch.tensor(gain, dtype=dtype)
    return Honest(
        f"{kind} {gain}", lambda s, u: weight * act(s) + u, differentiable=gain < 1, parameter=weight, scale=gain
    )


def _dense(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    gain = draw.one_of((0.4, 0.8, 1.5))
    weight = (gain * draw.normal(width, width) / width**0.5).to(dtype)
    if draw.happens(0.5) or gain == 0.4:  # an infinity norm below 1 contracts
        weight = weight * (gain / weight.abs().sum(1).max().clamp(min=gain))
        return Honest(f"dense {gain}", lambda s, u: torch.tanh(product(s, weight) + u), differentiable=gain < 1,
                      parameter=weight)  # fmt: skip
    return Honest(f"dense {gain}, any norm", lambda s, u: torch.tanh(product(s, weight) + u), parameter=weight)


def _matrix_product(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    weight = (0.7 * draw.normal(width, width) / width**0.5).to(dtype)
    return Honest("matmul", lambda s, u: torch.tanh(s @ weight.T + u), reproducible=False, parameter=weight)


def _expanding(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    gain = draw.one_of((1.02, 1.5, 4.0, -2.0))
    return Honest(f"expanding {gain}", lambda s, u: gain * s + u, scale=4.0, differentiable=abs(gain) < 2)


def _overflowing(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    return Honest("cubic", lambda s, u: s + 0.3 * s**3 + u)


def _logistic(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    rate = draw.one_of((2.9, 3.9))

    def f(s: Tensor, u: Tensor) -> Tensor:
        return rate * s * (1 - s) + 0 * u

    return Honest(f"logistic {rate}", f, scale=4.0)


def _drift(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    noise = draw.one_of((0.0, 0.05))
    return Honest(f"drift {noise}", lambda s, u: s + 0.1 + noise * u, differentiable=True)


def _steps(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    def f(s: Tensor, u: Tensor) -> Tensor:
        return torch.where(s > 0, 0.5 * s - 1, 0.7 * s + 1) + u

    return Honest("jumps", f, smooth=False)


def _rounding(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    return Honest("integers", lambda s, u: torch.round(1.3 * s + u).remainder(16.0), smooth=False, scale=16.0)


def _constant(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    options: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "the input": lambda s, u: u.expand_as(s),
        "the input's first": lambda s, u: u[..., :1].expand_as(s),
        "a number": lambda s, u: torch.full_like(s, 0.25),
        "one number expanded": lambda s, u: torch.tensor(0.5, dtype=s.dtype).expand_as(s),
        "the state": lambda s, u: s,
        "a view of the state": lambda s, u: s.flip(-1).view_as(s),
        "the state transposed twice": lambda s, u: s.transpose(0, -1).transpose(0, -1),
    }
    name = draw.one_of(list(options))
    return Honest(f"constant: {name}", options[name], differentiable=True)


def _views(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    def f(s: Tensor, u: Tensor) -> Tensor:
        both = torch.stack([0.5 * s + u, s], -1)
        return both.movedim(-1, 0)[0]

    def inside(s: Tensor, u: Tensor) -> Tensor:
        x = s.clone()
        x.mul_(0.5)
        x[..., :1] += 0.1
        return x.add_(u)

    name, chosen = draw.one_of((("a view of its own", f), ("in place on a copy", inside)))
    return Honest(name, chosen, differentiable=True)


def _division(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    return Honest("1 / (1 + s^2)", lambda s, u: 1 / (1 + s * s) + 0.5 * u, differentiable=True)


def _division_by_zero(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    """Infinite where the state is exactly 0, which it is from the start, or never."""
    return Honest("1 / s", lambda s, u: 1 / s + 0 * u, smooth=False)


@dataclass(frozen=True)
class OwnDerivatives:
    """A recurrence with derivatives of its own, right or wrong; wrong ones cost iterations and nothing else."""

    slope: str

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        return 0.8 * torch.sin(s) + u

    def linearize(self, s: Tensor, u: Tensor) -> li.AbstractDerivatives:
        right = 0.8 * torch.cos(s)
        wrong = {"right": right, "zero": 0 * s, "nan": s * torch.nan, "huge": right * 1e30, "opposite": -right}
        return li.ElementwiseDerivatives(self(s, u), wrong[self.slope])


def _own_derivatives(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    slope = draw.one_of(("right", "zero", "nan", "huge", "opposite"))
    return Honest(f"own derivatives, {slope}", OwnDerivatives(slope), differentiable=slope == "right")


@dataclass(frozen=True)
class Declared:
    """A recurrence that declares the structure of its Jacobian: a diagonal plus rank one."""

    diagonal: Tensor
    along: Tensor
    back: Tensor

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        return self.diagonal * s + self.along * product(torch.sin(s), self.back[None]) + u

    def linearize(self, s: Tensor, u: Tensor) -> li.AbstractDerivatives:
        along, back = self.along.expand_as(s).unsqueeze(-1), (self.back * torch.cos(s)).unsqueeze(-1)
        return li.StructuredDerivatives(self(s, u), li.LowRank(self.diagonal.expand_as(s), along, back))


def _declared(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    gain = draw.one_of((0.2, 0.4, 1.5))  # a diagonal and a rank-one part of norm at most `gain` each
    diagonal, along = (gain * torch.tanh(draw.normal(width, dtype=dtype)) for _ in range(2))
    back = torch.nn.functional.normalize(draw.normal(width, dtype=dtype), dim=-1, p=1)
    return Honest(f"declared low rank {gain}", Declared(diagonal, along, back), differentiable=gain < 0.5, scale=4.0)


def _folded(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    cell = torch.nn.GRUCell(width, width, dtype=dtype)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(0.5 * draw.normal(*parameter.shape))
    cell.requires_grad_(False)
    one_step = li.fold(lambda s, u: cell(u, s))
    return Honest("GRUCell", one_step, reproducible=False, scale=4.0, differentiable=True)


def _raveled(draw: Draw, width: int, dtype: torch.dtype) -> Honest:
    _, unravel = li.ravel((torch.zeros(width - width // 2), torch.zeros(width // 2)))

    def f(s: Tensor, u: Tensor) -> Tensor:
        one, other = unravel(s)
        mean = 0.3 * (other[..., :1] if other.shape[-1] else 0)
        return torch.cat([torch.tanh(one + mean), 0.5 * other + 0.1], -1) + u

    return Honest("two parts", f, differentiable=True)


FAMILIES = {
    _elementwise: 6.0, _dense: 6.0, _matrix_product: 1.0, _expanding: 2.0, _overflowing: 1.5, _logistic: 1.0,
    _drift: 1.5, _steps: 1.5, _rounding: 1.0, _constant: 2.0, _views: 1.0, _division: 1.0, _division_by_zero: 0.5,
    _own_derivatives: 1.5, _declared: 1.5, _folded: 0.7, _raveled: 1.0,
}  # fmt: skip


def honest(draw: Draw, width: int, dtype: torch.dtype, *, differentiable: bool = False) -> Honest:
    """A recurrence for states of this width and dtype; one whose gradients can be compared where asked for."""
    while not (found := draw.weighted(FAMILIES)(draw, width, dtype)).differentiable and differentiable:
        pass
    return found
