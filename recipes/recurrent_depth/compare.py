"""The measurements of the recipe, as data: networks over depth by every method, and ways to generate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from recipes.recurrent_depth.cells import Depths
from recipes.recurrent_depth.depth import DepthRecurrence, injected
from recipes.recurrent_depth.generate import Generated, agreement, one_by_one, wavefront
from recipes.recurrent_depth.jacobi_decoding import Decoded, greedy, jacobi_decoding, looked_up
from recipes.recurrent_depth.measure import ErrorMap, contraction, error_map, relative_error
from recipes.recurrent_depth.methods import catalogue
from recipes.recurrent_depth.model import RecurrentDepth

T = TypeVar("T")

TOLERANCE = 1e-3
"""On the relative error of the last state, for the counts of the depth table."""


@dataclass(frozen=True)
class Measured:
    """One network at one depth.

    Attributes:
        title: what it is.
        depth: T, calls of a layer.
        contraction: growth of a small change per layer, see `measure.contraction`.
        early_exit: the first depth whose state is within the tolerance of the last one, layer by layer; a network that
            is done early needs no iteration over depth, only to stop.
        maps: per method.
    """

    title: str
    depth: int
    contraction: float
    early_exit: int
    maps: dict[str, ErrorMap]


def over_depth(model: RecurrentDepth, tokens: Tensor, depth: int) -> DepthRecurrence:
    """The core of the recipe's model on tokens `(L,)` or `(B, L)` as a recurrence over depth."""
    e = model.prelude(tokens)
    return injected(model.core, torch.zeros_like(e), e, depth)


@torch.no_grad()
def measure_depth(title: str, problem: DepthRecurrence) -> Measured:
    """Every method on one stack of layers, against the layers one after the other."""
    exact = problem.sequential()
    to_end = relative_error(exact, exact[-1:].expand_as(exact))
    methods = catalogue(problem.shape[-1])
    return Measured(
        title=title,
        depth=len(exact),
        contraction=contraction(problem, exact),
        early_exit=1 + int((to_end > TOLERANCE).sum()),
        maps={name: error_map(problem, method, exact, tolerance=TOLERANCE) for name, method in methods.items()},
    )


@dataclass(frozen=True)
class Way:
    """One line of the table of generation.

    Attributes:
        name: of the way.
        rounds: evaluations one after the other.
        saved: the rounds of the exact loop, divided by these.
        work: rows evaluated, in units of those of the exact loop.
        agree: tokens like those of the exact loop before the first that differs.
        seconds: of one run.
        tokens: generated.
    """

    name: str
    rounds: int
    saved: float
    work: float
    agree: int
    seconds: float
    tokens: Tensor


def generation(
    model: RecurrentDepth,
    prompt: Tensor,
    count: int,
    depths: Depths,
    flights: list[int],
    halts: list[float],
) -> Iterator[Way]:
    """Token by token, the wavefront exactly, and both with halting."""
    exact, seconds = _timed(lambda: one_by_one(model, prompt, count, depths))

    def way(name: str, done: tuple[Generated, float]) -> Way:
        result, took = done
        same = agreement(result.tokens, exact.tokens)
        ratio, work = exact.rounds / result.rounds, result.evaluated / exact.evaluated
        return Way(name, result.rounds, ratio, work, same, took, result.tokens)

    yield way("token by token", (exact, seconds))
    for flight in flights:
        done = _timed(lambda flight=flight: wavefront(model, prompt, count, depths, flight=flight))
        yield way(f"wavefront, {flight} in flight", done)
    for halt in halts:
        looser = Depths(depths.rows, depths.inner, halt)
        yield way(f"token by token, halt {halt:g}", _timed(lambda d=looser: one_by_one(model, prompt, count, d)))
        done = _timed(lambda d=looser: wavefront(model, prompt, count, d, flight=flights[-1]))
        yield way(f"wavefront, {flights[-1]} in flight, halt {halt:g}", done)


def ordinary(model: RecurrentDepth, prompt: Tensor, count: int, depth: int, ahead: int) -> Iterator[Way]:
    """The same model as an ordinary one, its depth fixed and out of sight: greedy and Jacobi decoding."""

    @torch.no_grad()
    def language_model(tokens: Tensor) -> Tensor:
        return model(tokens, depth)

    exact, seconds = _timed(lambda: greedy(language_model, prompt, count))
    yield Way("one pass a token", count, 1.0, 1.0, count, seconds, exact)
    drafts = {"from nothing": None, "draft looked up in the prompt": looked_up(prompt, count)}
    for name, draft in drafts.items():

        def run(draft: Tensor | None = draft) -> Decoded:
            return jacobi_decoding(language_model, prompt, count, ahead=ahead, draft=draft)

        done, took = _timed(run)
        same = agreement(done.tokens, exact)
        saved, work = count / max(1, done.rounds), done.evaluated / count
        yield Way(f"Jacobi, {ahead} ahead, {name}", done.rounds, saved, work, same, took, done.tokens)


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start
