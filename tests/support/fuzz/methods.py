"""Methods, wrapped up to three deep, around the library's structures and a user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from catalogue import Noise, Poison, RandomTransition, RotationScale
from torch import Tensor

import lds_iter as li
from fuzz.draw import Draw


@dataclass(frozen=True)
class LowRank(li.AbstractTransition):
    """A user's own structure whose first field is a matrix per row: `c I + U V^T`, with its own `scaled`.

    `left`, `right`: `(n, *batch, D, R)`; `c`: `(n, *batch, 1)`.
    """

    left: Tensor
    right: Tensor
    c: Tensor

    def mv(self, x):
        inner = (self.right * x.unsqueeze(-1)).sum(-2, keepdim=True)
        return self.c * x + (self.left * inner).sum(-1)

    def after(self, earlier):
        """Of a higher rank: `(c I + U V^T)(c' I + U' V'^T) = c c' I + U (c' V + U' ...)...`, kept exact by widening."""
        moved = self.c.unsqueeze(-1) * earlier.left + self.left @ (self.right.mT @ earlier.left)
        left = torch.cat([earlier.c.unsqueeze(-1) * self.left, moved], -1)
        return LowRank(left, torch.cat([self.right, earlier.right], -1), self.c * earlier.c)

    def transpose(self):
        return LowRank(self.right, self.left, self.c)

    def scaled(self, factor):
        return LowRank(li.linear.times(factor, self.left), self.right, li.linear.times(factor, self.c))


@dataclass(frozen=True)
class Matrices(li.AbstractTransition):
    """A user's own structure, whose only field is a matrix per row, `(n, *batch, D, D)`."""

    matrix: Tensor

    def mv(self, x):
        return (self.matrix * x.unsqueeze(-2)).sum(-1)

    def after(self, earlier):
        return Matrices((self.matrix.unsqueeze(-1) * earlier.matrix.unsqueeze(-3)).sum(-2))

    def transpose(self):
        return Matrices(self.matrix.mT)

    def scaled(self, factor):
        return Matrices(li.linear.times(factor, self.matrix))


@dataclass(frozen=True)
class Own(li.TransitionApproximation):
    """A user's choice of A, in a structure of their own: `Matrices`, `LowRank` or `RotationScale`."""

    structure: str

    def transition(self, lin):
        if self.structure == "matrices":
            return Matrices(lin.jacobian())
        diagonal = lin.diagonal()
        if self.structure == "low rank":
            right = torch.ones_like(diagonal).unsqueeze(-1)
            return LowRank(0.1 * diagonal.unsqueeze(-1), right, 0.5 * diagonal[..., :1])
        half = diagonal.shape[-1] // 2
        return RotationScale(diagonal[..., :half], 0.1 * diagonal[..., :half])


@dataclass(frozen=True)
class Averaged(li.StatefulTransition):
    """A user's choice of A with a memory: half of the diagonal of the Jacobian, half of what the row had before."""

    def init(self, guess):
        return torch.zeros_like(guess)

    def choose(self, lin, carry):
        before = carry[lin.rows]
        now = torch.where(lin.active.unsqueeze(-1), 0.5 * (lin.diagonal() + before), before)
        return li.Diagonal(now), torch.cat([carry[: lin.rows.start], now, carry[lin.rows.stop :]])


@dataclass(frozen=True)
class HeavyBall(li.LDSApproximation):
    """A user's wrapper with a carry: the inner update and a part of the last one, of every row."""

    method: li.LDSApproximation
    momentum: float

    def init(self, guess):
        return torch.zeros_like(guess), self.method.init(guess)

    def update(self, lin, carry):
        velocity, inner = carry
        d, inner = self.method.update(lin, inner)
        before = velocity[lin.rows]
        d = d + self.momentum * torch.where(lin.open, before, 0)
        now = torch.where(lin.active.unsqueeze(-1) & d.isfinite(), d, before)
        return d, (torch.cat([velocity[: lin.rows.start], now, velocity[lin.rows.stop :]]), inner)


@dataclass(frozen=True)
class Halved(li.LDSApproximation):
    """A user's wrapper without a carry of its own: half of the inner update in every second row."""

    method: li.LDSApproximation

    def init(self, guess):
        return self.method.init(guess)

    def update(self, lin, carry):
        d, carry = self.method.update(lin, carry)
        times = torch.arange(lin.rows.start, lin.rows.stop).view(-1, *[1] * (d.ndim - 1))
        return torch.where(times % 2 == 0, d, 0.5 * d), carry


@dataclass(frozen=True)
class Drawn:
    """A method and what the laws need to know of it.

    Attributes:
        method: the method.
        alike: whether its own arithmetic rounds alike for a batch and for its elements.
        finite: whether its proposals are finite and moderate where `f` is, so that `Unroll` can differentiate them.
        timed: whether it decides by the clock, so that counts differ from run to run.
    """

    method: Any
    alike: bool = True
    finite: bool = True
    timed: bool = False


def _rotation(draw: Draw, width: int) -> Tensor:
    return torch.linalg.qr(draw.normal(width, width)).Q


def _choice(draw: Draw, width: int) -> Drawn:
    """A choice of A without a wrapper."""
    blocks = [size for size in (1, 2, 3, 4) if width % size == 0]
    options: dict[Callable[[], Drawn], float] = {
        lambda: Drawn(li.Newton()): 5,
        lambda: Drawn(li.QuasiNewton()): 4,
        lambda: Drawn(li.QuasiNewton(li.Hutchinson(draw.integer(1, 3), seed=draw.integer(0, 9)))): 1,
        lambda: Drawn(li.BlockNewton(draw.one_of(blocks))): 2,
        lambda: Drawn(li.Picard()): 2,
        lambda: Drawn(li.Jacobi()): 2,
        lambda: Drawn(RandomTransition(draw.integer(0, 9), draw.one_of((0.3, 3.0))), alike=False, finite=False): 1,
        lambda: Drawn(Poison(), finite=False): 0.5,
        lambda: Drawn(Averaged()): 1,
        lambda: Drawn(Own("matrices"), alike=False): 1,
        lambda: Drawn(Own("low rank"), alike=False): 1,
    }
    if width % 2 == 0:
        options[lambda: Drawn(Own("rotations"))] = 1
    return draw.weighted(options)()


def _wrapped_choice(draw: Draw, width: int, depth: int) -> Drawn:
    """A choice of A, wrapped `depth` times."""
    if depth == 0:
        return _choice(draw, width)
    inner = _wrapped_choice(draw, width, depth - 1)
    name = draw.one_of(("Damped", "Clipped", "Then", "Then", "Where", "Rotated", "LowPrecision", "Chord"))
    method, alike, finite = inner.method, inner.alike, inner.finite
    if name == "Damped":
        return Drawn(li.Damped(method, draw.one_of((0.0, 0.1, 0.5, 1.0))), alike, finite)
    if name == "Clipped":
        return Drawn(li.Clipped(method, draw.one_of((0.0, 0.5, 1.0))), alike, finite)
    if name == "Rotated":
        return Drawn(li.Rotated(method, _rotation(draw, width)), False, finite)
    if name == "LowPrecision":
        dtype = draw.one_of((torch.bfloat16, torch.float32, torch.float16))
        return Drawn(li.LowPrecision(method, dtype), alike, finite and dtype != torch.float16)  # which ends at 65,504
    if name == "Chord":
        return Drawn(li.Chord(method, draw.integer(1, 4)), alike, finite)
    other = _choice(draw, width)
    pair = [method, other.method]
    if draw.happens(0.5):
        pair.reverse()
    alike, finite = alike and other.alike, finite and other.finite
    if name == "Then":
        return Drawn(li.Then(*pair, draw.integer(0, 4)), alike, finite)
    return Drawn(li.Where(_large, *pair), alike, finite)


def _large(lin: li.Linearization) -> Tensor:
    return lin.residual.abs().amax(-1, keepdim=True) > 0.1


def _general(draw: Draw, width: int, depth: int) -> Drawn:
    """Any method, wrapped `depth` times."""
    if depth == 0:
        if draw.happens(0.05):
            return Drawn(Noise(draw.integer(0, 9)), alike=False, finite=False)
        return _choice(draw, width)
    name = draw.weighted(
        {"choice": 6, "TrustRegion": 2, "Chord": 2, "Switch": 2, "LevenbergMarquardt": 2, "HeavyBall": 1, "Halved": 1}
    )
    if name == "choice":
        return _wrapped_choice(draw, width, depth)
    if name == "LevenbergMarquardt":
        inner = _wrapped_choice(draw, width, depth - 1)
        form = draw.one_of((li.Filter(), li.Smoother()))
        damped = Drawn(
            li.LevenbergMarquardt(draw.one_of((0.3, 30.0, 1e4)), inner.method, form), inner.alike, inner.finite
        )
        if draw.happens(0.3):
            return Drawn(li.TrustRegion(damped.method), damped.alike, damped.finite)
        return damped
    if name == "TrustRegion":
        inner = _wrapped_choice(draw, width, depth - 1)
        return Drawn(li.TrustRegion(inner.method, k=draw.one_of((0.01, 0.25, 0.9))), inner.alike, inner.finite)
    if name == "Chord":
        inner = _wrapped_choice(draw, width, depth - 1)
        return Drawn(li.Chord(inner.method, draw.integer(1, 4)), inner.alike, inner.finite)
    inner = _general(draw, width, depth - 1)
    if name == "HeavyBall":
        return Drawn(HeavyBall(inner.method, draw.one_of((0.0, 0.3))), inner.alike, inner.finite)
    if name == "Halved":
        return Drawn(Halved(inner.method), inner.alike, inner.finite)
    other = _general(draw, width, draw.integer(0, depth - 1))
    rule = draw.one_of((li.Below(0.1), li.Below(1e-4), li.Stalled(2, 0.5), li.Stalled(1, 0.9)))
    pair = (inner.method, other.method)
    return Drawn(li.Switch(*pair, rule), inner.alike and other.alike, inner.finite and other.finite)


def method(draw: Draw, width: int) -> Drawn:
    """A method of depth 0 to 3; `Auto` now and then.

    Raises:
        TypeError: in words, where two of them do not compose.
    """
    if draw.happens(0.02):
        return Drawn(li.Auto(), timed=True)
    return _general(draw, width, draw.weighted({0: 3, 1: 4, 2: 3, 3: 2}))
