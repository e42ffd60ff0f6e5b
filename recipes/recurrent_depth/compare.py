"""The measurements of the recipe, as data: networks over depth by every method, and ways to generate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

import lds_iter as li
from lds_iter.auto import wall_clock
from lds_iter.depth import DepthRecurrence, ErrorMap, Freeze, Generated, agreement
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
        contraction: growth of a small change per layer, see `li.depth.growth_per_layer`.
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
    return li.depth.injected(model.core, torch.zeros_like(e), e, depth)


@torch.no_grad()
def measure_depth(title: str, problem: DepthRecurrence) -> Measured:
    """Every method on one stack of layers, against the layers one after the other."""
    exact = problem.sequential()
    to_end = li.depth.relative_error(exact, exact[-1:].expand_as(exact))
    methods = catalogue(problem.shape[-1])
    return Measured(
        title=title,
        depth=len(exact),
        contraction=li.depth.growth_per_layer(problem, exact),
        early_exit=1 + int((to_end > TOLERANCE).sum()),
        maps={
            name: li.depth.error_map(problem, method, exact, tolerance=TOLERANCE) for name, method in methods.items()
        },
    )


def catalogue(width: int) -> dict[str, li.LDSApproximation]:
    """The methods that fit a hidden sequence, by the names that tables use; `width` is that of one token."""
    return {
        "Jacobi": li.Jacobi(),
        "Picard": li.Picard(),
        "(1-k) I, k=0.5": li.Damped(li.Picard(), 0.5),
        "Hutchinson, 2 probes": li.Clipped(li.QuasiNewton(li.Hutchinson(probes=2))),
        "trace per token": li.Clipped(li.QuasiNewton(li.depth.BlockTrace(width))),
    }


@dataclass(frozen=True)
class Way:
    """One line of the table of generation.

    Attributes:
        name: of the way.
        steps: of the core one after the other; passes of the whole model where it is an ordinary one.
        calls: of prelude, core and coda, all that had to follow one another; None of an ordinary model.
        saved: the steps of the exact loop, divided by these.
        work: token-steps (tokens through the core or the model), in units of those of the exact loop.
        agree: tokens like those of the exact loop before the first that differs.
        seconds: of one run.
        tokens: generated.
    """

    name: str
    steps: int
    calls: int | None
    saved: float
    work: float
    agree: int
    seconds: float
    tokens: Tensor


def generation(
    model: RecurrentDepth, prompt: Tensor, count: int, depth: int, flights: list[int], freezes: list[float], inner: int
) -> Iterator[Way]:
    """Token by token, the wavefront exactly, and newest states with and without verification."""
    exact, seconds = _timed(prompt, lambda: li.depth.one_by_one(model, prompt, count, depth))

    def way(name: str, run: Callable[[], Generated]) -> Way:
        done, took = _timed(prompt, run)
        ratio, work = exact.work.step / done.work.step, done.work.token_steps / exact.work.token_steps
        same = agreement(done.tokens, exact.tokens)
        return Way(name, done.work.step, done.work.one_after_the_other, ratio, work, same, took, done.tokens)

    yield Way("token by token", exact.work.step, exact.work.one_after_the_other, 1.0, 1.0, count, seconds, exact.tokens)
    for flight in flights:
        run = functools.partial(li.depth.wavefront, model, prompt, count, depth, flight=flight)
        yield way(f"wavefront, exact, {flight} in flight", run)
    for change in freezes:
        for steps in dict.fromkeys((1, inner)):
            rule = Freeze(change, steps, flights[-1])
            run = functools.partial(li.depth.newest_states, model, prompt, count, depth, rule=rule)
            yield way(f"newest states, {change:g}, inner {steps}", run)
        run = functools.partial(li.depth.verified, model, prompt, count, depth, rule=Freeze(change, 1, flights[-1]))
        yield way(f"newest states, {change:g}, verified", run)


def ordinary(model: RecurrentDepth, prompt: Tensor, count: int, depth: int) -> Iterator[Way]:
    """The same model as an ordinary one, its depth fixed and out of sight: greedy and Jacobi decoding."""

    @torch.no_grad()
    def language_model(tokens: Tensor) -> Tensor:
        return model(tokens, depth)

    exact, seconds = _timed(prompt, lambda: li.depth.greedy(language_model, prompt, count))
    read = count * len(prompt) + count * (count - 1) // 2  # the loop reads all that is there, for every token
    yield Way("one pass a token", count, None, 1.0, 1.0, count, seconds, exact)
    drafts = {"from nothing": None, "draft looked up in the prompt": li.depth.looked_up(prompt, count)}
    for name, draft in drafts.items():
        run = functools.partial(li.depth.jacobi_decoding, language_model, prompt, count, draft=draft)
        done, took = _timed(prompt, run)
        same = agreement(done.tokens, exact)
        saved, work = count / done.passes, done.evaluated / read
        yield Way(f"Jacobi, {name}", done.passes, None, saved, work, same, took, done.tokens)


def _timed(like: Tensor, run: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds until the device of a tensor is done."""
    start = wall_clock(like)
    result = run()
    return result, wall_clock(like) - start
