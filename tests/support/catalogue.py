"""Everything that the contract suites run over: an instance of every method and every transition, and some recurrences.

A class added to the library is added here, and to no other test; `test_methods.py` fails until it is.
"""

from dataclasses import dataclass

import torch

import lds_iter as li


@dataclass(frozen=True)
class Noise(li.LDSApproximation):
    """A method that proposes garbage: noise, huge numbers, inf and NaN."""

    seed: int = 0

    def init(self, guess):
        return torch.Generator().manual_seed(self.seed)

    def update(self, lin, carry):
        d = 10.0 ** torch.randint(-3, 40, lin.residual.shape, generator=carry).to(lin.residual.dtype)
        d = d * torch.randn(d.shape, generator=carry, dtype=d.dtype)
        kind = torch.randint(0, 20, d.shape, generator=carry)
        d = torch.where(kind == 0, torch.nan, d)
        d = torch.where(kind == 1, torch.inf, d)
        return torch.where(kind == 2, -torch.inf, d), carry


@dataclass(frozen=True)
class RandomTransition(li.TransitionApproximation):
    """A random dense `A_t`, the same at every iteration: useless but legal, it needs all T iterations."""

    seed: int = 0
    size: float = 1.0

    def transition(self, lin):
        *lead, width = lin.residual.shape
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(10_000, width, width, generator=generator, dtype=lin.residual.dtype)
        matrix = matrix[lin.rows.start : lin.rows.start + lead[0]].view(lead[0], *[1] * len(lead[1:]), width, width)
        return li.Dense(self.size * matrix.expand(*lead, width, width))


@dataclass(frozen=True)
class Poison(li.TransitionApproximation):
    """A transition full of NaN."""

    def transition(self, lin):
        return li.Diagonal(torch.full_like(lin.residual, torch.nan))


ROTATION = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)).Q

METHODS = {
    "newton": li.Newton(),
    "quasi": li.QuasiNewton(),
    "quasi-hutchinson": li.Clipped(li.QuasiNewton(li.Hutchinson(probes=2, seed=3)), 1.0),
    "block": li.BlockNewton(2),
    "picard": li.Picard(),
    "jacobi": li.Jacobi(),
    "damped-newton": li.Damped(li.Newton(), 0.2),
    "damped-block": li.Damped(li.BlockNewton(2), 0.2),
    "damped-picard": li.Damped(li.Picard(), 0.3),
    "clipped-newton": li.Clipped(li.Newton(), 0.9),
    "clipped-block": li.Clipped(li.BlockNewton(2), 0.9),
    "clipped-picard": li.Clipped(li.Picard(), 0.5),
    "jacobi-then-newton": li.Then(li.Jacobi(), li.Newton(), 2),
    "picard-then-quasi": li.Then(li.Picard(), li.Damped(li.QuasiNewton(), 0.1), 1),
    "block-then-newton": li.Then(li.BlockNewton(2), li.Newton(), 2),
    "trust-newton": li.TrustRegion(li.Newton()),
    "trust-block": li.TrustRegion(li.BlockNewton(2), k=0.9, relax=0.1, reject=0.2),
    "trust-filter": li.TrustRegion(li.LevenbergMarquardt(1.0)),
    "chord-newton": li.Chord(li.Newton(), 3),
    "chord-then": li.Chord(li.Then(li.Jacobi(), li.QuasiNewton(), 1), 2),
    "low-precision-newton": li.LowPrecision(li.Newton()),
    "low-precision-quasi": li.Damped(li.LowPrecision(li.QuasiNewton(), torch.float32), 0.1),
    "rotated-quasi": li.Rotated(li.QuasiNewton(), ROTATION),
    "trust-rotated": li.TrustRegion(li.LowPrecision(li.Rotated(li.BlockNewton(2), ROTATION))),
    "where-newton-quasi": li.Where(
        lambda lin: lin.residual.abs().amax(-1, keepdim=True) > 0.1, li.Newton(), li.QuasiNewton()
    ),
    "switch-below": li.Switch(li.Jacobi(), li.Newton(), li.Below(0.1)),
    "switch-stalled": li.Switch(li.TrustRegion(li.QuasiNewton()), li.Chord(li.Newton(), 2), li.Stalled(2, 0.5)),
    "filter-newton": li.LevenbergMarquardt(30.0),
    "filter-quasi": li.LevenbergMarquardt(3.0, li.QuasiNewton()),
    "filter-block": li.LevenbergMarquardt(1e4, li.BlockNewton(2)),
    "filter-picard": li.LevenbergMarquardt(5.0, li.Picard()),
    "smoother-newton": li.LevenbergMarquardt(30.0, form=li.Smoother()),
    "smoother-quasi": li.LevenbergMarquardt(3.0, li.QuasiNewton(), li.Smoother()),
    "smoother-block": li.LevenbergMarquardt(1e4, li.BlockNewton(2), li.Smoother()),
}
"""Sensible methods, every class of the library among them."""

ROUND_WITH_THE_BATCH = {"rotated-quasi", "trust-rotated"}
"""Methods that multiply by one matrix for all: such a product rounds differently for batches of different shapes."""

SCANS_IN_BFLOAT16 = {"low-precision-newton", "trust-rotated"}
"""Methods whose parallel scan rounds to eight bits."""

ADVERSARIES = {"noise": Noise(), "random": RandomTransition(), "poison": Poison()}
"""Methods that know nothing, or worse; the loop has to cope."""


@dataclass(frozen=True)
class RotationScale(li.AbstractTransition):
    """A user's own structure: a complex number per pair of coordinates. `re`, `im`: `(n, *batch, D/2)`."""

    re: torch.Tensor
    im: torch.Tensor

    def mv(self, x):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([self.re * a - self.im * b, self.im * a + self.re * b], -1).flatten(-2)

    def after(self, earlier):
        return RotationScale(self.re * earlier.re - self.im * earlier.im, self.re * earlier.im + self.im * earlier.re)

    def transpose(self):
        return RotationScale(self.re, -self.im)

    def scaled(self, factor):
        return RotationScale(li.linear.times(factor, self.re), li.linear.times(factor, self.im))


def transitions(n, batch, width, scale=1.0, generator=None, dtype=torch.float64):
    """One random instance of every structure, for `n` rows of `(*batch, width)`; `width` even."""

    def rand(*shape):
        return scale * (2 * torch.rand(n, *batch, *shape, generator=generator, dtype=dtype) - 1)

    diagonal = li.Diagonal(rand(width))
    own = RotationScale(rand(width // 2), rand(width // 2))
    return {
        "dense": li.Dense(rand(width, width) / width**0.5),
        "block": li.BlockDiagonal(rand(width // 2, 2, 2)),
        "diagonal": diagonal,
        "low-rank": li.LowRank(rand(width), rand(width, 1), rand(width, 1)),
        "low-rank-two": li.LowRank(rand(width), rand(width, 2), rand(width, 2)),
        "scaled": li.ScaledIdentity(rand(1)),
        "scaled-number": li.ScaledIdentity(0.7 * scale),
        "identity": li.Identity(),
        "zero": li.Zero(),
        "own": own,
        "own-scaled": own.scaled(rand(1)),
    }


STRUCTURES = list(transitions(1, (), 2))


def tanh_rnn(width, gain=0.9, dtype=torch.float64, seed=0):
    """`f(s, u) = tanh(W s + u)` with `W` of spectral radius about `gain`."""
    generator = torch.Generator().manual_seed(seed)
    weight = gain * torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    weight = weight.to(dtype)
    return lambda s, u: torch.tanh(s @ weight.T + u)


def elementwise(s, u):
    """A recurrence in which no coordinate sees another."""
    return 0.8 * torch.sin(s) + u


def loop(f, s0, inputs):
    """The Python loop, written out once more, so that `li.sequential` is not its own judge."""
    states, s = [], s0
    for t in range(inputs.shape[0]):
        s = f(s[None], inputs[t : t + 1])[0]
        states.append(s)
    return torch.stack(states)
