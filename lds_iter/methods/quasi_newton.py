"""Quasi-Newton: the diagonal of the Jacobian, `A_t = diag J_t`, exact or estimated.

Published as quasi-DEER (Gonzalez, Warrington, Smith, Linderman: "Towards scalable and stable parallelization of
nonlinear RNNs", NeurIPS 2024). O(T D) memory and work a scan. The estimator is Hutchinson's for diagonals (Bekas,
Kokiopoulou, Saad: "An estimator for the diagonal of a matrix", 2007): for `z` of independent random signs,
`E[z * (J z)] = diag J`, and `k` probes leave a variance of `sum_{j != i} J_ij^2 / k`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Diagonal
from lds_iter.methods.arguments import check_count, check_instance, fix
from lds_iter.methods.base import TransitionApproximation
from lds_iter.methods.spelling import Composable


class AbstractDiagonal(Composable, ABC):
    """A way to get the diagonal of `J_t`."""

    @abstractmethod
    def __call__(self, lin: Linearization) -> Tensor:
        """The diagonal along the guess, `(n, *batch, D)`."""


@dataclass(frozen=True)
class ExactDiagonal(AbstractDiagonal):
    """The diagonal that the recurrence gives, or D forward-mode products in memory-bounded chunks."""

    def __call__(self, lin: Linearization) -> Tensor:
        return lin.diagonal()


@dataclass(frozen=True)
class Hutchinson(AbstractDiagonal):
    """An estimate from `probes` forward-mode products, for states too wide for D of them.

    The signs are a function of seed, probe, time and coordinate alone: the same at every iteration (so the iteration
    can settle), for every batch element (so none depends on the others), and whatever the window or the device.

    Attributes:
        probes: how many products; the standard error falls with its square root.
        seed: of the signs, a whole number, 0 or more.

    Raises:
        ValueError: when `probes` or `seed` is no such number.
    """

    probes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        fix(self, probes=check_count("probes", self.probes, least=1), seed=check_count("seed", self.seed, least=0))

    def __call__(self, lin: Linearization) -> Tensor:
        total = torch.zeros_like(lin.residual)
        for probe in range(self.probes):
            z = random_signs(self.seed + 0x51ED27 * probe, lin.rows.start, lin.residual)
            total += z * lin.jvp(z.expand_as(total).contiguous())
        return total / self.probes


def random_signs(seed: int, start: int, like: Tensor) -> Tensor:
    """Random signs `(n, 1, ..., 1, D)` for `n` rows from time `start` on, from a counter instead of a generator.

    The hash is the finalizer of splitmix64 (Steele, Lea, Flood 2014), in integers that wrap around.
    """
    n, width = like.shape[0], like.shape[-1]
    times = torch.arange(start, start + n, device=like.device).view(-1, 1)
    place = times * width + torch.arange(width, device=like.device)
    number = torch.full((), seed % 2**62, device=like.device)
    # A compiler would multiply the constants by `width` and `seed` in unbounded integers. It does not see through `~`.
    x = ~~place * -0x61C8864680B583EB + ~~number * 0x2545F4914F6CDD1D
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    x = (x >> 31) ^ x
    return (1 - 2 * (x & 1)).to(like.dtype).view(n, *[1] * (like.ndim - 2), width)


@dataclass(frozen=True)
class QuasiNewton(TransitionApproximation):
    """`A_t = diag J_t`: as cheap per iteration as Picard, for states of any width; exact Newton for an elementwise `f`.

    Attributes:
        diagonal: `ExactDiagonal()`, or `Hutchinson(probes)`, best as `Clipped(QuasiNewton(Hutchinson()), 1)` far from
            the solution.

    Raises:
        TypeError: when `diagonal` is no instance of a way to get it.
    """

    diagonal: AbstractDiagonal = field(default_factory=ExactDiagonal)

    def __post_init__(self) -> None:
        check_instance("diagonal", self.diagonal, AbstractDiagonal, "ExactDiagonal() or Hutchinson(2)")

    def transition(self, lin: Linearization) -> Diagonal:
        return Diagonal(self.diagonal(lin))
