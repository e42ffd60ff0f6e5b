"""What sampling returns: the positions, what is known of the moves, and an exact check against the sequential chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.mcmc.acceptance import MoveInfo
from lds_iter.mcmc.in_turn import walk
from lds_iter.mcmc.sampler import Chain
from lds_iter.methods.base import StatefulTransition
from lds_iter.solution import Solution


@dataclass(frozen=True)
class Replay:
    """The chain taken again, one move after the other, on the same noise.

    Attributes:
        mismatches: moves whose decision (accepted or not) differs, per chain, `(chains)`.
        difference: the largest difference of a number of a position, per chain, `(chains)`.
        positions: of the sequential chain, in the structure of `Draws.positions`.
        info: its `MoveInfo`, each field `(T, chains)`.
    """

    mismatches: Tensor
    difference: Tensor
    positions: Any
    info: MoveInfo

    @property
    def exact(self) -> bool:
        """Whether every decision is the same."""
        return not bool(self.mismatches.any())


@dataclass(frozen=True)
class Draws:
    """Draws of several chains.

    Attributes:
        positions: in the structure of `x0`, each tensor `(T, chains, ...)`. A rejected move repeats the one before it.
        info: the `MoveInfo` of every move, each field `(T, chains)`.
        solution: of the recurrence: iterations, residual and result per chain. After an early `stop` the positions are
            those reached, and `stopping_error` says how far they may be off.
        noise: the random numbers used.
        chain: the sampler on its target, as `li.solve` takes it.
    """

    positions: Any
    info: MoveInfo
    solution: Solution
    noise: Any
    chain: Chain

    @property
    def acceptance_rate(self) -> Tensor:
        """The mean acceptance probability of each chain, `(chains)`."""
        return self.info.acceptance_rate.mean(0)

    @property
    def divergences(self) -> Tensor:
        """How many moves of each chain diverged, int64, `(chains)`."""
        return self.info.is_divergent.sum(0)

    def replay(self) -> Replay:
        """Take the chain again, one move after the other, on the same noise, and compare."""
        with torch.no_grad():
            found, info = walk(self.chain, self.noise, len(self.solution.states))
        mismatches = (info.is_accepted != self.info.is_accepted).sum(0)
        difference = (found - self.solution.states).abs().amax((0, -1))
        return Replay(mismatches, difference, self.chain.target.packing.unpack(found), info)

    def stopping_error(self, method: StatefulTransition | None = None) -> tuple[Any, Any]:
        """How far the mean over all draws may be off: because the iteration stopped early, and because draws are few.

        The first is the mean of `Solution.error_estimate()`, which is of first order; the second is the standard error
        of the mean (MCSE) by batches of length sqrt(T) (Flegal and Jones 2010). While the first is well below the
        second, more iterations tell nothing of the posterior.

        Args:
            method: of the estimate; `Newton()` when None.

        Returns:
            Both in the structure of one position.
        """
        off = self.solution.error_estimate(method).mean((0, 1)).abs()
        states = self.solution.states
        size = math.isqrt(len(states))
        batches = states[: len(states) // size * size].unflatten(0, (-1, size)).mean(1)
        centred = batches - batches.mean(0)
        freedom = max(1, (len(batches) - 1) * batches.shape[1])
        spread = (centred.square().sum((0, 1)) / freedom / (len(batches) * batches.shape[1])).sqrt()
        unpack = self.chain.target.packing.unpack
        return unpack(off), unpack(spread)

    def posterior(self) -> dict[str, Tensor]:
        """Positions by name, each `(chains, T, ...)` on the CPU, as ArviZ has them; see `named`."""
        return named(self.positions)

    def sample_stats(self) -> dict[str, Tensor]:
        """What ArviZ calls `sample_stats`, each `(chains, T)` on the CPU."""
        stats = {
            "acceptance_rate": self.info.acceptance_rate,
            "diverging": self.info.is_divergent,
            "lp": self.info.logdensity,
        }
        return {name: leaf.detach().cpu().movedim(1, 0) for name, leaf in stats.items()}


def named(positions: Any) -> dict[str, Tensor]:
    """Positions by name, each `(chains, T, ...)` on the CPU, as ArviZ has them.

    Args:
        positions: a pytree of tensors `(T, chains, ...)`, such as `Replay.positions`; a single tensor is called `x`.
    """
    flat = pytree.tree_flatten_with_path(positions)[0]
    names = [pytree.keystr(path).replace("']['", "_").strip("[]'") or "x" for path, _ in flat]
    return {name: leaf.detach().cpu().movedim(1, 0) for name, (_, leaf) in zip(names, flat, strict=True)}
