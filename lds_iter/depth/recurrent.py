"""Recurrent-depth language models of any make, by four functions, and their loop: greedy, token by token.

    e = embed(tokens)            the prelude: what the tokens say; computed once
    h = start(e)                 the state before the first step
    h = step(h, e)               the core, R times
    logits = decode(h)           the coda

Each takes the positions of its tokens and a cache, `past`, whose `update(keys, values, layer)` a layer of attention
calls as it would that of a transformers `Cache`, and whose `mask` says which keys each token reads. A token's keys and
values at step r are read at step r: so does the model on the whole sequence at once, and so it was trained. All ways of
generation here are measured against that loop.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lds_iter.depth.past import Memory, View


class RecurrentDepthModel(Protocol):
    """The four functions. `N` sequences of `n` tokens at hand, at `positions`, int64, `(N, n)`."""

    def embed(self, tokens: Tensor, positions: Tensor, past: View) -> Tensor:
        """Tokens `(N, n)` to embedded inputs `(N, n, width)`."""
        ...

    def start(self, e: Tensor, positions: Tensor) -> Tensor:
        """The state before the first step, the shape of `e`; of a token at a position always the same."""
        ...

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View) -> Tensor:
        """One step of the core, `(N, n, width)` to the same."""
        ...

    def decode(self, h: Tensor, positions: Tensor, past: View) -> Tensor:
        """Logits of the token after each, `(N, n, vocabulary)`."""
        ...


@dataclass(frozen=True)
class Work:
    """How often each part of a model was called, one call after the other, and how many tokens went through the core.

    Attributes:
        embed: calls of the prelude.
        step: calls of the core: the steps one after the other. A loop over R steps makes R of them for each token.
        decode: calls of the coda.
        token_steps: tokens that went through the core, summed over its calls.
    """

    embed: int = 0
    step: int = 0
    decode: int = 0
    token_steps: int = 0

    @property
    def one_after_the_other(self) -> int:
        """All calls that had to follow one another."""
        return self.embed + self.step + self.decode

    def __sub__(self, before: Work) -> Work:
        """The work since `before`."""
        mine, theirs = vars(self), vars(before)
        return Work(**{name: mine[name] - theirs[name] for name in mine})


class Counted:
    """A model, unchanged, that counts its work.

    Attributes:
        work: so far.
    """

    def __init__(self, model: RecurrentDepthModel) -> None:
        self._model, self.work = model, Work()

    def embed(self, tokens: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(embed=1)
        return self._model.embed(tokens, positions, past)

    def start(self, e: Tensor, positions: Tensor) -> Tensor:
        return self._model.start(e, positions)

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(step=1, token_steps=h.shape[0] * h.shape[1])
        return self._model.step(h, e, positions, past)

    def decode(self, h: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(decode=1)
        return self._model.decode(h, positions, past)

    def _add(self, **more: int) -> None:
        self.work = Work(**{name: value + more.get(name, 0) for name, value in vars(self.work).items()})


@dataclass(frozen=True)
class Generated:
    """What every way of generation here returns.

    Attributes:
        tokens: generated, `(count,)`.
        work: after the prompt, which all ways read alike and which is not counted.
        rounds: of the way: tokens of the loop, iterations of the wavefront, rounds of the newest states.
        checks: passes of R steps over drafted tokens, where the way verifies.
    """

    tokens: Tensor
    work: Work
    rounds: int
    checks: int = 0


def all_steps(
    model: RecurrentDepthModel, memory: Memory, tokens: Tensor, depth: int
) -> tuple[Tensor, dict[Hashable, View]]:
    """`depth` steps over new tokens `(n,)` side by side, after those in memory.

    Returns:
        Logits `(n, vocabulary)`, and what to keep of the tokens, by part: `memory.keep(views, count)`.
    """
    positions = (memory.length + torch.arange(len(tokens), device=tokens.device))[None]
    views: dict[Hashable, View] = {"embed": memory.view("embed")}
    e = model.embed(tokens[None], positions, views["embed"])
    h = model.start(e, positions)
    for number in range(depth):
        views["step", number] = memory.view(("step", number))
        h = model.step(h, e, positions, views["step", number])
    views["decode"] = memory.view("decode")
    return model.decode(h, positions, views["decode"])[0], views


@torch.no_grad()
def one_by_one(model: RecurrentDepthModel, prompt: Tensor, count: int, depth: int) -> Generated:
    """Greedy decoding as usual: each token to its full depth, then the next; keys and values of every step are cached.

    Args:
        model: by the four functions.
        prompt: `(P,)`, int64, at least one token, on the model's device.
        count: how many tokens to generate.
        depth: R, steps of the core for each token.

    Raises:
        ValueError: for a prompt of another shape, and for `count` or `depth` below 1.
    """
    check_prompt(prompt, count=count, depth=depth)
    counted, memory, tokens = Counted(model), Memory(), prompt
    if len(prompt) > 1:
        memory.keep(all_steps(counted, memory, prompt[:-1], depth)[1], len(prompt) - 1)
    before = counted.work
    for _ in range(count):
        logits, views = all_steps(counted, memory, tokens[-1:], depth)
        memory.keep(views, 1)
        tokens = torch.cat([tokens, logits.argmax(-1)])
    return Generated(tokens[len(prompt) :], counted.work - before, count)


def agreement(a: Tensor, b: Tensor) -> int:
    """How many tokens are the same before the first that differs.

    Args:
        a, b: tokens, `(n,)` each.
    """
    return int((a == b).to(torch.int64).cumprod(0).sum())


def check_prompt(prompt: Tensor, **numbers: int) -> None:
    """A prompt of at least one token, and numbers of at least 1."""
    if prompt.ndim != 1 or len(prompt) < 1:
        raise ValueError(f"`prompt` must be (P,) with P >= 1, got {tuple(prompt.shape)}.")
    if prompt.is_floating_point():
        raise TypeError(f"`prompt` must hold whole numbers, got {prompt.dtype}. Type `prompt.long()`.")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")
