"""A chain one move after the other, and HMC's leapfrog steps inside of a move all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.errors import SolveError
from lds_iter.mcmc.acceptance import MoveInfo
from lds_iter.mcmc.hmc import HMC
from lds_iter.mcmc.leapfrog import Leapfrog, join, separate, straight
from lds_iter.mcmc.sampler import AbstractSampler, Chain, chain_and_noise
from lds_iter.mcmc.target import Target
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import take_rows
from lds_iter.solution import Result
from lds_iter.solve import solve

Move = Callable[[Target, Tensor, Any], tuple[Tensor, MoveInfo]]


@dataclass(frozen=True)
class Turns:
    """A chain taken one move after the other.

    Attributes:
        positions: in the structure of `x0`, each tensor `(T, chains, ...)`; `li.mcmc.named` puts them in ArviZ's order.
        info: the `MoveInfo` of every move, each field `(T, chains)`.
        iterations: updates of the leapfrog steps of each move, int64, `(T, chains)`; None without `leapfrog`.
        noise: the random numbers used.
        chain: the sampler on its target.
    """

    positions: Any
    info: MoveInfo
    iterations: Tensor | None
    noise: Any
    chain: Chain


def walk(chain: Chain, noise: Any, length: int, move: Move | None = None) -> tuple[Tensor, MoveInfo]:
    """All states, `(T, chains, D)`, and what is known of the moves, one after the other.

    Args:
        chain: of a sampler.
        noise: a pytree of tensors that lead with T.
        length: T.
        move: in place of the sampler's own.
    """
    s, states, infos = chain.start, [], []
    for t in range(length):
        row = pytree.tree_map(lambda leaf: leaf[0], take_rows(noise, t, t + 1))
        s, info = (move or chain.sampler.move)(chain.target, s, row)
        states.append(s)
        infos.append(info)
    columns = zip(*(vars(info).values() for info in infos), strict=True)
    return torch.stack(states), MoveInfo(*(torch.stack(column) for column in columns))


@spelled
def sample_in_turn(
    sampler: AbstractSampler,
    x0: Any,
    num_samples: int,
    chains: int | None = None,
    *,
    generator: torch.Generator | None = None,
    leapfrog: LDSApproximation | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
) -> Turns:
    """Draw one move after the other; with `leapfrog`, the leapfrog steps of a move of HMC all at once.

    By the same generator it is the chain of `sample`.

    Args:
        sampler: such as `li.mcmc.hmc(logdensity, 0.1)`.
        x0: where chains start: a tensor `(chains, ...)` or a pytree of them; one position when `chains` is given.
        num_samples: moves of a chain, T.
        chains: how many chains start from `x0`; None where `x0` leads with the chains.
        generator: of the noise, on the device of `x0`; torch's own when None.
        leapfrog: for `hmc`: the method that solves the leapfrog steps of each move in parallel. `li.Newton()`, or
            `li.BlockNewton(2)` for targets of weak couplings; `li.mcmc.ProbedBlocks(2)` forms no Hessian. When None the
            steps go one after the other.
        rtol, atol, max_iters: of the leapfrog steps, as `solve` has them.

    Returns:
        `Turns`.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
        SolveError: `max_iters` updates did not solve the leapfrog steps of a move.

    Example:
        >>> sampler = li.mcmc.hmc(lambda x: -x.square().sum(-1) / 2, 0.1, None, 32)
        >>> turns = li.mcmc.sample_in_turn(sampler, torch.zeros(4, 2), 10, leapfrog=li.Newton())
        >>> int(turns.iterations.max())  # a normal target: linear, one update
        1
    """
    chain, noise = chain_and_noise(sampler, x0, num_samples, chains, generator)
    if leapfrog is None:
        with torch.no_grad():
            states, info = walk(chain, noise, num_samples)
        return Turns(chain.target.packing.unpack(states), info, None, noise, chain)
    check_instance("sampler", sampler, HMC, "li.mcmc.hmc(logdensity, 0.1, num_steps=64), which has leapfrog steps")
    assert isinstance(sampler, HMC)
    flight = Flight(sampler, leapfrog, rtol, atol, max_iters)
    counts: list[Tensor] = []

    def move(target: Target, s: Tensor, row: Any) -> tuple[Tensor, MoveInfo]:
        moved, info, count = flight(target, s, row)
        counts.append(count)
        return moved, info

    with torch.no_grad():
        states, info = walk(chain, noise, num_samples, move)
    return Turns(chain.target.packing.unpack(states), info, torch.stack(counts), noise, chain)


@dataclass(frozen=True)
class Flight:
    """A move of HMC whose leapfrog steps are solved all at once.

    Attributes:
        sampler: of the move.
        method: of the solve.
        rtol, atol, max_iters: see `sample_in_turn`.
    """

    sampler: HMC
    method: LDSApproximation
    rtol: float | None
    atol: float | None
    max_iters: int | None

    def __call__(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo, Tensor]:
        """The next positions, what is known of the move, and the iterations of each chain, `(chains)`."""
        (xi, log_u), size, root = noise, self.sampler.step_size, self.sampler._root
        before, slope = target.value_and_gradient(s)
        start = join(torch.zeros_like(s), xi + size / 2 * root.transposed(slope))
        steps = self.sampler.num_steps
        solution = solve(
            Leapfrog(target, root, size, s), start, s.new_zeros(steps, 1), self.method,
            guess=straight(start, steps, size), rtol=self.rtol, atol=self.atol, max_iters=self.max_iters, throw=False,
        )  # fmt: skip
        if bool((solution.result == int(Result.MAX_ITERS)).any()):
            raise SolveError(
                f"The leapfrog steps of a move take more than `max_iters` = {self.max_iters} updates. Leave it out: "
                f"{steps} always suffice.", solution,
            )  # fmt: skip
        y, velocity = separate(solution.states[-1])
        x = s + root.times(y)
        after, slope = target.value_and_gradient(x)
        velocity = velocity - size / 2 * root.transposed(slope)
        exploded = solution.result == int(Result.NONFINITE)
        after = torch.where(exploded, torch.nan, after)
        moved, info = self.sampler.tested(s, (xi, log_u), before, x, velocity, after)
        return moved, info, solution.iterations
