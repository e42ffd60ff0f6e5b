"""Recurrences whose transitions have each structure, with derivatives in closed form, and a share of their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.lowrank.measure import DeltaHead
from lds_iter.linear import times

GAIN, SEEN = 0.9, 0.5
"""Of the network's weights, and of what its derivatives see of them. Derivatives are too small on purpose: a solve then
takes more iterations than are timed, each of which costs the same."""


@dataclass(frozen=True)
class NetworkDerivatives(li.AbstractDerivatives):
    """Of `tanh(s W + u)`. `slope`: `(n, *batch, D)`, `1 - value^2`; `weight`: `(D, D)`."""

    value: Tensor
    slope: Tensor
    weight: Tensor

    def jvp(self, v: Tensor) -> Tensor:
        return self.slope * (v @ self.weight)

    def vjp(self, w: Tensor) -> Tensor:
        return (self.slope * w) @ self.weight.mT

    def jacobian(self) -> Tensor:
        return self.slope.unsqueeze(-1) * self.weight.mT

    def diagonal(self) -> Tensor:
        return self.slope * self.weight.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        weight = self.weight.mT.unflatten(0, (-1, size)).unflatten(-1, (-1, size)).diagonal(dim1=0, dim2=2)
        return self.slope.unflatten(-1, (-1, size)).unsqueeze(-1) * weight.movedim(-1, 0)


@dataclass(frozen=True)
class Network:
    """`tanh(s W + u)`."""

    weight: Tensor

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(s @ self.weight + u)

    def linearize(self, s: Tensor, u: Tensor) -> NetworkDerivatives:
        value = self(s, u)
        return NetworkDerivatives(value, 1 - value**2, SEEN * self.weight)


@dataclass(frozen=True)
class Rotation(li.AbstractTransition):
    """A structure of a user's: 2 x 2 blocks ((a, -b), (b, a)) along the diagonal. `a`, `b`: `(n, *batch, D // 2)`."""

    a: Tensor
    b: Tensor

    def mv(self, x: Tensor) -> Tensor:
        p, q = x[..., 0::2], x[..., 1::2]
        return torch.stack([self.a * p - self.b * q, self.b * p + self.a * q], dim=-1).flatten(-2)

    def after(self, earlier: Rotation) -> Rotation:
        a, b = earlier.a, earlier.b
        return Rotation(self.a * a - self.b * b, self.a * b + self.b * a)

    def transpose(self) -> Rotation:
        return Rotation(self.a, -self.b)

    def scaled(self, factor: float | Tensor) -> Rotation:
        return Rotation(times(factor, self.a), times(factor, self.b))


@dataclass(frozen=True)
class ComplexNewton(li.TransitionApproximation):
    """Newton on pairs of coordinates, by the closest rotation."""

    def transition(self, lin: li.Linearization) -> Rotation:
        j = lin.block_diagonal(2)
        return Rotation((j[..., 0, 0] + j[..., 1, 1]) / 2, (j[..., 1, 0] - j[..., 0, 1]) / 2)


@dataclass(frozen=True)
class Kind:
    """A method on a recurrence.

    Attributes:
        method: that is timed and counted.
        sent: the numbers of one sequence's affine map, by its width D.
        low_rank: whether the recurrence is a delta rule, whose Jacobian is a diagonal plus rank one, not the network.
    """

    method: li.LDSApproximation
    sent: Callable[[int], int]
    low_rank: bool = False


KINDS = {
    "Newton, dense": Kind(li.Newton(), lambda width: width**2 + width),
    "QuasiNewton": Kind(li.QuasiNewton(), lambda width: 2 * width),
    "Picard": Kind(li.Picard(), lambda width: width + 1),
    "Newton, low rank": Kind(li.Newton(), lambda width: width**2 + width, low_rank=True),
    "rotations, a user's": Kind(ComplexNewton(), lambda width: 2 * width),
}


def shared(kind: Kind, length: int, width: int, batch: int, rank: int, ranks: int) -> tuple[Any, Tensor, Any]:
    """The recurrence, `s0`, and the inputs of the time steps of one rank; float32."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weight = GAIN * torch.linalg.qr(drawn(width, width))[0]
    generator.manual_seed(1 + rank)
    rows = length * (rank + 1) // ranks - length * rank // ranks
    u = drawn(rows, batch, width)
    if not kind.low_rank:
        return Network(weight), torch.zeros(batch, width), u
    k = torch.nn.functional.normalize(drawn(rows, batch, width), dim=-1)
    gates = torch.sigmoid(drawn(rows, batch, 1)), torch.sigmoid(drawn(rows, batch, 1))
    return DeltaHead(declared=True), torch.zeros(batch, width), (*gates, k, u)
