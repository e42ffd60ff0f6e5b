"""Who draws a chain in the bench of times: the chain in turn, the same compiled, and ours."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lds_iter as li
from bench.mcmc.cases import Case

REPEAT = 1.0
"""Seconds below which a run is timed twice more, and the median counts."""


@dataclass(frozen=True)
class Drawn:
    """What a contender drew, and what it took.

    Attributes:
        positions: `(T, chains, D)`.
        accepted: the decisions, `(T, chains)`; None where they are not known.
        seconds: of one run, nothing compiled in it.
        setup: seconds of the first run beyond that.
        iterations: of a parallel chain, the most of a chain.
        gradients: of the log density for one draw; a product with the derivative of a move counts as its gradients.
    """

    positions: Tensor
    accepted: Tensor | None
    seconds: float
    setup: float
    iterations: int | None
    gradients: float


class AbstractContender(ABC):
    """A way to draw chains. `exact`: whether it must be the loop's chain, decision by decision."""

    name: str
    exact: bool

    @abstractmethod
    def missing(self, case: Case, chains: int) -> str:
        """Why it does not take part; empty when it does."""

    @abstractmethod
    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        """Draw."""


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and seconds: the median of three where a run is short."""
    taken, result = [], None
    while not taken or (taken[0] < REPEAT and len(taken) < 3):
        begin = time.perf_counter()
        result = run()
        taken.append(time.perf_counter() - begin)
    return result, sorted(taken)[len(taken) // 2]


def generator() -> torch.Generator:
    """Of the noise that all exact contenders share."""
    return torch.Generator().manual_seed(1)


def decisions(chain: li.mcmc.Chain, states: Tensor, noise: Any) -> Tensor:
    """Which moves along these states are accepted."""
    before = torch.cat([chain.start.unsqueeze(0), states[:-1]])
    return chain.sampler.move(chain.target, before, noise)[1].is_accepted


class Loop(AbstractContender):
    """One move after the other, in Python."""

    name, exact = "`sample_in_turn`", True

    def missing(self, case: Case, chains: int) -> str:  # noqa: ARG002
        return ""

    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        run = lambda n: li.mcmc.sample_in_turn(case.sampler, case.start(chains), n, generator=generator())  # noqa: E731
        run(20)
        turns, seconds = timed(lambda: run(moves))
        states = turns.chain.target.packing.pack(turns.positions, (moves, chains), "Draws")
        return Drawn(states, turns.info.is_accepted, seconds, 0.0, None, case.gradients)


class CompiledChain(AbstractContender):
    """The same, several moves to a call of a function that torch.compile made; one where a move is long to compile."""

    name, exact = "`torch.compile` of the move", True

    def missing(self, case: Case, chains: int) -> str:  # noqa: ARG002
        return ""

    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        torch.compiler.reset()
        together = 1 if case.gradients > 2 else 4
        with torch.no_grad():
            chain = case.sampler.bind(case.start(chains), chains=True)
            noise = case.sampler.noise(moves, chain.start, generator())

            def some(s: Tensor, noise: Any) -> Tensor:
                states = []
                for t in range(together):
                    row = pytree.tree_map(lambda leaf: leaf[t], noise)  # noqa: B023 - called at once
                    s = chain.sampler.move(chain.target, s, row)[0]
                    states.append(s)
                return torch.stack(states)

            compiled = torch.compile(some, fullgraph=True)

            def run() -> Tensor:
                s, found = chain.start, []
                for t in range(0, moves, together):
                    end = t + together
                    found.append(compiled(s, pytree.tree_map(lambda leaf: leaf[t:end], noise)))  # noqa: B023
                    s = found[-1][-1]
                return torch.cat(found)

            begin = time.perf_counter()
            run()
            first = time.perf_counter() - begin
            states, seconds = timed(run)
            return Drawn(states, decisions(chain, states, noise), seconds, first - seconds, None, case.gradients)


@dataclass(frozen=True)
class Parallel(AbstractContender):
    """Ours: all moves at once.

    Attributes:
        method: of the solve.
        products: derivative products of an iteration of a move.
        cases: the names that it takes part in; all when empty.
        compiled: whether iterations are compiled.
    """

    name: str
    method: li.LDSApproximation
    products: Callable[[int], float]
    cases: tuple[str, ...] = ()
    compiled: bool = False
    exact = True

    def missing(self, case: Case, chains: int) -> str:
        if self.cases and case.name not in self.cases:
            return "another case's"
        return "compiled for four chains alone" if self.compiled and chains == 1 else ""

    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        with torch.no_grad():
            chain = case.sampler.bind(case.start(chains), chains=True)
            noise = case.sampler.noise(moves, chain.start, generator())
            if self.compiled:
                torch.compiler.reset()
            f = li.Compiled(chain) if self.compiled else chain
            solve = lambda iters: li.solve(f, chain.start, noise, self.method, max_iters=iters, throw=False)  # noqa: E731
            begin = time.perf_counter()
            solve(2)
            first = time.perf_counter() - begin
            solution, seconds = timed(lambda: solve(None))
            setup = first if self.compiled else 0.0
            rows = float(solution.evaluations.double().mean()) / moves
            gradients = rows * case.gradients * (1 + self.products(chain.start.shape[-1]))
            accepted = decisions(chain, solution.states, noise)
            return Drawn(solution.states, accepted, seconds, setup, int(solution.iterations.max()), gradients)


TIMED = ("mixture, MALA", "eight schools, Gibbs")
OURS = (
    Parallel("`TrustRegion(Newton())`", li.TrustRegion(li.Newton()), float),
    Parallel("`TrustRegion(Chord(Newton(), 3))`", li.TrustRegion(li.Chord(li.Newton(), 3)), lambda width: width / 3,
             ("eight schools, Gibbs",)),
    Parallel("`Clipped(QuasiNewton(Hutchinson()), 1)`", li.Clipped(li.QuasiNewton(li.Hutchinson()), 1),
             lambda width: 1, ("mixture, MALA",)),  # noqa: ARG005
    Parallel("`Clipped(Newton(), 1)`", li.Clipped(li.Newton(), 1), float, ("banana, HMC",)),
    Parallel("`TrustRegion(Newton())`, `Compiled`", li.TrustRegion(li.Newton()), float, TIMED, True),
)  # fmt: skip
