"""Recurrent-depth language models of any make, by four functions, and what they are called for.

    e = embed(tokens)            the prelude: what the tokens say; computed once
    h = start(e)                 the state before the first step
    h = step(h, e)               the core, R times
    logits = decode(h)           the coda

Each takes the positions of its tokens and a cache, `past`, whose `update(keys, values, layer)` a layer of attention
calls as it would that of a transformers `Cache`, and whose `mask` says which keys each token reads. A token's keys and
values at step r are read at step r: so does the model on the whole sequence at once, and so it was trained.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lds_iter.depth.recurrent.memory import Memory, View, filled_up


class RecurrentDepthModel(Protocol):
    """The four functions. `N` sequences of `n` tokens at hand, at `positions`, int64, `(N, n)`.

    Sequences of a batch have lengths of their own, so their positions differ, and tokens behind the end of the shorter
    ones are filled up: no token before reads them, and what the functions return for them is not used.
    """

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
class CallCounts:
    """How often each part of a model was called, one call after the other, and how many tokens went through the core.

    Attributes:
        embed: calls of the prelude.
        step: calls of the core: the steps one after the other. A loop over R steps makes R of them for each token.
        decode: calls of the coda.
        token_steps: tokens that went through the core, summed over its calls; those that fill up a batch included.
    """

    embed: int = 0
    step: int = 0
    decode: int = 0
    token_steps: int = 0

    @property
    def one_after_the_other(self) -> int:
        """All calls that had to follow one another."""
        return self.embed + self.step + self.decode

    def __sub__(self, before: CallCounts) -> CallCounts:
        """The calls since `before`."""
        mine, theirs = vars(self), vars(before)
        return CallCounts(**{name: mine[name] - theirs[name] for name in mine})


class Counted:
    """A model, unchanged, that counts its calls.

    Attributes:
        work: so far.

    Raises:
        TypeError: for a model that lacks one of the four functions.
    """

    def __init__(self, model: RecurrentDepthModel) -> None:
        missing = [name for name in ("embed", "start", "step", "decode") if not callable(getattr(model, name, None))]
        if missing:
            raise TypeError(
                f"`model` must have the functions of `li.depth.RecurrentDepthModel`, but {type(model).__name__} has no "
                f"`{'`, `'.join(missing)}`. Type `li.depth.Huginn(model)` or `li.depth.Looped(model)` for what these "
                "take. An ordinary language model has no core to repeat: type `li.depth.parallel_generate(model, ids)`."
            )
        self._model, self.work = model, CallCounts()

    def embed(self, tokens: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(embed=1)
        try:
            return self._model.embed(tokens, positions, past)
        except IndexError as error:
            error.add_note(f"The tokens are {int(tokens.min())} to {int(tokens.max())}: outside of the vocabulary?")
            raise

    def start(self, e: Tensor, positions: Tensor) -> Tensor:
        return self._model.start(e, positions)

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(step=1, token_steps=h.shape[0] * h.shape[1])
        return self._model.step(h, e, positions, past)

    def decode(self, h: Tensor, positions: Tensor, past: View) -> Tensor:
        self._add(decode=1)
        return self._model.decode(h, positions, past)

    def _add(self, **more: int) -> None:
        self.work = CallCounts(**{name: value + more.get(name, 0) for name, value in vars(self.work).items()})


def all_steps(
    model: RecurrentDepthModel, memory: Memory, rows: Sequence[Sequence[int]], depth: int
) -> tuple[Tensor, dict[Hashable, View]]:
    """`depth` steps over new tokens side by side, a row of them for each sequence, after those in memory.

    Returns:
        Logits `(N, longest, vocabulary)`, and what to keep of the tokens, by part: `memory.keep(views, counts)`.
    """
    positions = memory.positions([len(row) for row in rows])
    views: dict[Hashable, View] = {"embed": memory.view("embed")}
    e = model.embed(filled_up(rows, memory.device), positions, views["embed"])
    h = model.start(e, positions)
    for number in range(depth):
        views["step", number] = memory.view(("step", number))
        h = model.step(h, e, positions, views["step", number])
    views["decode"] = memory.view("decode")
    return model.decode(h, positions, views["decode"]), views
