"""A sampler is a pure function of a position and noise: `f(x, noise)`, a recurrence as any other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.carries.packing import Packing, as_tensors, make_packing
from lds_iter.derivatives.refusals import Refusals
from lds_iter.mcmc.acceptance import MoveInfo
from lds_iter.mcmc.target import LogDensity, Target, make_target
from lds_iter.methods.arguments import check_count, check_instance
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.clipped import Clipped
from lds_iter.methods.newton import Newton
from lds_iter.methods.quasi_newton import Hutchinson, QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

WIDEST_JACOBIAN = 64
"""Numbers of a position up to which full Jacobians are formed by default."""


class AbstractSampler(ABC):
    """A Markov chain whose random numbers are drawn beforehand.

    Subclasses are frozen dataclasses. They work on positions in one tensor, `(..., D)`.
    """

    acceptance: ClassVar[float | None] = None
    """The mean acceptance rate that warm-up aims at; None where there is nothing to adapt."""

    logdensity: LogDensity | None
    """The log density of the target; None where the sampler asks for none."""

    @abstractmethod
    def noise(self, length: int, like: Tensor, generator: torch.Generator | None = None) -> Any:
        """The random numbers of so many moves of positions `like`, `(*batch, D)`: a pytree whose leaves lead with T."""

    @abstractmethod
    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        """Move positions `(..., D)`; the same function of `s` and `noise` at every call, every row by itself."""

    def method(self, width: int) -> LDSApproximation:
        """What solves chains of so many numbers a position when nothing else is asked for."""
        return TrustRegion(Newton()) if width <= WIDEST_JACOBIAN else Clipped(QuasiNewton(Hutchinson()), 1)

    def bind(self, position: Any, chains: bool = False) -> Chain:
        """The sampler as a recurrence on positions of one tensor.

        Args:
            position: one position, a tensor or a pytree of tensors; with `chains` one per chain, which lead.
            chains: see there.

        Raises:
            TypeError, ValueError: for positions and log densities that cannot serve.
        """
        position = as_tensors(position)
        packing = make_packing(position, 1 if chains else 0)
        alone = Packing(packing.spec, packing.names, packing.shapes, packing.dtypes, torch.Size(), packing.dtype)
        flat = alone.pack(position, tuple(packing.batch), "`position`")
        return Chain(self, make_target(alone, self.logdensity, flat[0] if chains else flat), flat)

    def init(self, position: Any) -> Any:
        """The state of a chain at a position: the position itself, as tensors.

        Raises:
            TypeError, ValueError: for positions and log densities that cannot serve.
        """
        chain = self.bind(position)
        return chain.target.packing.unpack(chain.start)

    def step(self, noise: Any, state: Any) -> tuple[Any, MoveInfo]:
        """One move of one chain.

        Args:
            noise: of one move, such as a row of `noise(length, like)`.
            state: a position.

        Returns:
            The next position, and a `MoveInfo` of tensors without dimensions.
        """
        chain = self.bind(state)
        after, info = self.move(chain.target, chain.start, noise)
        return chain.target.packing.unpack(after), info


@dataclass(frozen=True)
class Chain:
    """A sampler on its target: the recurrence `f(s, noise)` that `li.solve` takes, on states `(n, *batch, D)`.

    Attributes:
        sampler, target: as they are.
        start: the first position, `(D)`, or one per chain, `(chains, D)`.
    """

    sampler: AbstractSampler
    target: Target
    start: Tensor

    def __call__(self, s: Tensor, noise: Any) -> Tensor:
        return self.sampler.move(self.target, s, noise)[0]

    @property
    def refusals(self) -> Refusals:
        """Those of the target, which all solves of a chain share."""
        return self.target.refusals


def chain_and_noise(
    sampler: AbstractSampler, x0: Any, num_samples: int, chains: int | None, generator: torch.Generator | None
) -> tuple[Chain, Any]:
    """The chain of what users ask for, checked, and the noise of all its moves; without gradients."""
    check_instance("sampler", sampler, AbstractSampler, "li.mcmc.hmc(logdensity, 0.1)")
    check_count("num_samples", num_samples, least=1)
    _check_generator(generator, x0)
    x0 = as_tensors(x0)
    if chains is not None:
        check_count("chains", chains, least=1)
        x0 = pytree.tree_map(lambda leaf: leaf.expand(chains, *leaf.shape), x0)
    with torch.no_grad():
        chain = sampler.bind(pytree.tree_map(lambda leaf: leaf.detach(), x0), chains=True)
        return chain, sampler.noise(num_samples, chain.start, generator)


def _check_generator(generator: torch.Generator | None, x0: Any) -> None:
    device = next((leaf.device for leaf in pytree.tree_leaves(x0) if isinstance(leaf, Tensor)), None)
    if generator is not None and device is not None and generator.device.type != device.type:
        raise ValueError(
            f"`generator` must be on the device of `x0`, {device}, got one on {generator.device}. Type "
            f"torch.Generator({device.type!r}).manual_seed(0)."
        )


def normal(length: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers `(length, *batch, D)`."""
    return torch.randn(length, *like.shape, dtype=like.dtype, device=like.device, generator=generator)


def log_uniform(length: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logs of uniform numbers, `(length, *batch)`; never -inf."""
    drawn = torch.rand(length, *like.shape[:-1], dtype=like.dtype, device=like.device, generator=generator)
    return (1 - drawn).log()
