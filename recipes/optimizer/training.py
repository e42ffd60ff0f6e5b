"""The steps of SGD, momentum and Adam as recurrences, in coordinates in which they are smooth.

One step takes the gradient g of a minibatch's loss at the parameters x, and then treats every parameter by itself:
`s' = update(s, g(x))`, where s has a few coordinates per parameter, x the first of them. Minibatches and learning rates
are inputs, so that all steps of a training are one solve, and gradients reach every learning rate.

PASO (ICML 2026) writes training as the same triangular system and solves it by fixed-point iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Any], Tensor]
"""From parameters `(P)` and a minibatch to a number."""

SMALLEST_SQUARE = 1e-20
"""Added to a second moment, far below the square of Adam's eps: the root of 0 has no slope."""

LARGEST_LOG = 30.0
"""Of the root of a second moment that an iterate may ask for."""


class AbstractOptimizer(ABC):
    """What an optimizer does with one parameter, in coordinates in which it is smooth.

    Attributes:
        size: coordinates per parameter; the first is the parameter itself.
    """

    size: int

    @abstractmethod
    def begin(self, x: Tensor) -> Tensor:
        """The coordinates before the first step, `(P, size)`, of parameters `(P)`."""

    @abstractmethod
    def update(self, s: Tensor, g: Tensor, rate: Tensor, t: Tensor) -> Tensor:
        """One step.

        Args:
            s: `(..., P, size)`.
            g: the gradient, `(..., P)`.
            rate: the learning rate, broadcasts against `g`.
            t: the number of the step, from 1; likewise.
        """


@dataclass(frozen=True)
class SGD(AbstractOptimizer):
    """`x' = x - rate g`, as `torch.optim.SGD`."""

    size = 1

    def begin(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def update(self, s: Tensor, g: Tensor, rate: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002
        return s - (rate * g).unsqueeze(-1)


@dataclass(frozen=True)
class Momentum(AbstractOptimizer):
    """`m' = beta m + g`, `x' = x - rate m'`, as `torch.optim.SGD(momentum=beta)`; the first `m` is 0."""

    beta: float = 0.9
    size = 2

    def begin(self, x: Tensor) -> Tensor:
        return torch.stack([x, torch.zeros_like(x)], -1)

    def update(self, s: Tensor, g: Tensor, rate: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002
        x, m = s.unbind(-1)
        m = self.beta * m + g
        return torch.stack([x - rate * m, m], -1)


@dataclass(frozen=True)
class Adam(AbstractOptimizer):
    """Adam, as `torch.optim.Adam`, in the coordinates `x`, `q = m / r` and `l = log r` with `r = sqrt(v)`.

    Moments are kept with their correction of bias made, as averages: `m' = (1 - a) m + a g` with `a` falling from 1 at
    the first step to `1 - beta1`. The textbook's `m / sqrt(v)` has unbounded slopes in v, and no value where an iterate
    of v is negative. Here `q` is bounded, and `r' = |(sqrt(1 - w) r, sqrt(w) g)|` is the length of a vector.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    size = 3

    def begin(self, x: Tensor) -> Tensor:
        # the first step forgets q and l; they begin the guess
        return torch.stack([x, torch.zeros_like(x), torch.full_like(x, -3)], -1)

    def update(self, s: Tensor, g: Tensor, rate: Tensor, t: Tensor) -> Tensor:
        x, q, log_r = s.unbind(-1)
        a, w = ((1 - beta) / (1 - beta**t) for beta in self.betas)
        r = log_r.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        new_r = ((1 - w) * r.square() + w * g.square() + SMALLEST_SQUARE).sqrt()
        q = ((1 - a) * q * r + a * g) / new_r
        return torch.stack([x - rate * q / (1 + self.eps / new_r), q, new_r.log()], -1)


@dataclass(frozen=True)
class TextbookAdam(AbstractOptimizer):
    """The same in the textbook's coordinates x, m and v, to see what they cost; `|v|` where an iterate is negative."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    size = 3

    def begin(self, x: Tensor) -> Tensor:
        return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)

    def update(self, s: Tensor, g: Tensor, rate: Tensor, t: Tensor) -> Tensor:
        x, m, v = s.unbind(-1)
        b1, b2 = self.betas
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g.square()
        root = (v.abs() / (1 - b2**t) + SMALLEST_SQUARE).sqrt()
        return torch.stack([x - rate * m / (1 - b1**t) / (root + self.eps), m, v], -1)


class Training:
    """All steps of a training: `f(s, (rows, rate, t))`, as `li.solve` takes it.

    Args:
        loss: from parameters `(P)` and a minibatch of the data to a number.
        data: a tuple of tensors that lead with the examples.
        optimizer: an `AbstractOptimizer`.

    Attributes:
        gradients: of the loss, `(n, P)`, at parameters `(n, P)` on minibatches that lead with n.
    """

    def __init__(self, loss: Loss, data: tuple[Tensor, ...], optimizer: AbstractOptimizer) -> None:
        self.loss, self.data, self.optimizer = loss, data, optimizer
        self.gradients = torch.func.vmap(torch.func.grad(loss))

    def __call__(self, s: Tensor, u: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        rows, rate, t = u
        local = s.unflatten(-1, (-1, self.optimizer.size))
        g = self.gradients(local[..., 0], tuple(part[rows] for part in self.data))
        return self.optimizer.update(local, g, rate.unsqueeze(-1), t.unsqueeze(-1)).flatten(-2)

    def start(self, x: Tensor) -> Tensor:
        """The state at parameters `(P)`."""
        return self.optimizer.begin(x).flatten()

    def parameters(self, states: Tensor) -> Tensor:
        """From states `(..., D)` to `(..., P)`."""
        return states.unflatten(-1, (-1, self.optimizer.size))[..., 0]

    def inputs(self, rate: float | Tensor, steps: int, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """The minibatches, drawn once, the learning rates and the numbers of the steps.

        Args:
            rate: one number, or one per step, `(steps)`.
            steps: T.
            batch: examples per step.
            seed: of the draws.
        """
        chance, like = torch.Generator("cpu").manual_seed(seed), self.data[0]
        rows = torch.randint(len(like), (steps, batch), generator=chance, device="cpu").to(like.device)
        rates = torch.as_tensor(rate, dtype=like.dtype, device=like.device).expand(steps)
        return rows, rates, torch.arange(1, steps + 1, dtype=like.dtype, device=like.device)
