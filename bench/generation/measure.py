"""Generates from held-out prompts by every strategy, and compares text, calls and seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from lds_iter.depth import Freeze, Generated
from recipes.recurrent_depth.model import RecurrentDepth

COUNT, DEPTH, LENGTH, APART = 48, 32, 24, 400
"""Characters to generate, steps of the core R, characters of a prompt, characters between the starts of two prompts."""

Way = Callable[[RecurrentDepth, Tensor], Generated]
WAYS: dict[str, Way] = {
    "verified": lambda m, p: li.depth.verified(m, p, COUNT, DEPTH),
    "verified, inner 4": lambda m, p: li.depth.verified(m, p, COUNT, DEPTH, rule=Freeze(inner=4)),
    "newest states, 0.003": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH),
    "newest states, 0.003, inner 4": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH, rule=Freeze(inner=4)),
    "newest states, 0.1": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH, rule=Freeze(0.1)),
    "wavefront, 16 in flight": lambda m, p: li.depth.wavefront(m, p, COUNT, DEPTH),
}
FEW = {"wavefront, 16 in flight": 2}
"""Prompts of a way that takes long."""

BATCHES = {"verified, one batch": "verified", "newest states, 0.003, one batch": "newest states, 0.003"}
"""All prompts in one batch, by which way; the loop has them in one batch, too."""


def row(name: str, model: RecurrentDepth, prompts: list[Tensor], exact: list[Generated], rounds: int) -> dict[str, Any]:
    """One way on its prompts against the loop, and times where `rounds` is not 0."""
    way, used = WAYS[BATCHES.get(name, name)], prompts[: FEW.get(name, len(prompts))]
    if name in BATCHES:
        prompts = used = [torch.stack(used)]
        exact = [loop_of(model, used[0])]
    pairs = [(way(model, prompt), loop) for prompt, loop in zip(used, exact, strict=False)]
    texts = [pair for ours, loop in pairs for pair in zip(_rows(ours.tokens), _rows(loop.tokens), strict=True)]
    found: dict[str, Any] = {
        "way": name,
        "prompts": len(texts),
        "agree": [li.depth.agreement(*pair) for pair in texts],
        "steps": [ours.work.step for ours, _ in pairs],
        "fewer_calls": [loop.work.one_after_the_other / ours.work.one_after_the_other for ours, loop in pairs],
        "work": [ours.work.token_steps / loop.work.token_steps for ours, loop in pairs],
    }
    if rounds:
        loop = loop_of(model, prompts[0])
        found["tokens_per_second"] = {
            "ours": _speed(lambda: way(model, prompts[0]), rounds, loop.tokens.numel()),
            "loop": _speed(lambda: loop_of(model, prompts[0]), rounds, loop.tokens.numel()),
            "same": bool(torch.equal(way(model, prompts[0]).tokens, loop.tokens)),
        }
    return found


def _rows(tokens: Tensor) -> Tensor:
    """The texts of a batch, or the one there is, `(N, count)`."""
    return tokens.view(-1, tokens.shape[-1])


def loop_of(model: RecurrentDepth, prompt: Tensor) -> Generated:
    """The loop that all ways are measured against."""
    return li.depth.one_by_one(model, prompt, COUNT, DEPTH)


def _speed(run: Callable[[], object], rounds: int, characters: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return characters / statistics.median(seconds)
