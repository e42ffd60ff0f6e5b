"""Generation of a recurrent-depth model by the newest state of each token (Geiping et al. 2025, arXiv 2510.14961).

Several tokens are in flight. In every round each takes a step of the core, reading the newest states of the tokens
before it; the coda says the token after each, which the next one takes for its draft. The first tokens in flight settle
when a step changes them by less than `freeze`, relatively, and at the latest after R steps; then their keys and values
are kept. This is little work, and its tokens are those of no particular depth: on a core that contracts, and with a
small `freeze`, they are nearly always those of the loop. `verified` makes sure.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.depth.past import Memory, View
from lds_iter.depth.recurrent import Counted, Generated, RecurrentDepthModel, all_steps, check_prompt
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class Freeze:
    """The rule by which tokens settle.

    Attributes:
        change: a token settles when a step changes its state by at most this, relative to its norm.
        inner: steps of the core between two looks at the coda.
        flight: tokens in flight at most.

    Raises:
        ValueError: for `inner` or `flight` below 1, and a negative `change`.
    """

    change: float = 0.003
    inner: int = 1
    flight: int = 16

    def __post_init__(self) -> None:
        if self.inner < 1 or self.flight < 1 or not self.change >= 0:
            raise ValueError(f"`inner` and `flight` must be at least 1 and `change` not negative, got {self}.")


class Front:
    """Tokens in flight behind those of a memory.

    Args:
        memory: of the settled tokens, by the newest states: parts "embed", "step" and "decode".
        token: the first in flight, `(1,)`: said by the last settled one, or given.
    """

    def __init__(self, memory: Memory, token: Tensor) -> None:
        self.memory, self.tokens = memory, token
        self._states: Tensor | None = None
        self._steps = 0  # of the first token in flight, since those before it have settled

    def advance(self, model: RecurrentDepthModel, depth: int, rule: Freeze, wanted: int) -> Tensor:
        """One round; returns the tokens that settled, `(k,)`. At most `wanted` tokens are in flight from now on."""
        positions = (self.memory.length + torch.arange(len(self.tokens), device=self.tokens.device))[None]
        views: dict[Hashable, View] = {part: self.memory.view(part) for part in ("embed", "step", "decode")}
        e = model.embed(self.tokens[None], positions, views["embed"])
        h = before = self._with_starts(model, e, positions)
        for _ in range(rule.inner):
            views["step"] = self.memory.view("step")
            before, h = h, model.step(h, e, positions, views["step"])
        says = model.decode(h, positions, views["decode"])[0].argmax(-1)
        self._steps += rule.inner
        settled = self._settled(h, before, says, depth, rule)
        self.memory.keep(views, settled)
        gone = self.tokens[:settled]
        following = torch.cat([self.tokens[:1], says])[settled:]
        self.tokens = following[: max(1, min(rule.flight, wanted - settled))]
        self._states = h[:, settled:]
        self._steps = 0 if settled else self._steps
        return gone

    def _with_starts(self, model: RecurrentDepthModel, e: Tensor, positions: Tensor) -> Tensor:
        """The states in flight, and the start of the tokens that have none yet."""
        if self._states is None:
            return model.start(e, positions)
        there = min(self._states.shape[1], e.shape[1])
        if there == e.shape[1]:
            return self._states[:, :there]
        return torch.cat([self._states, model.start(e[:, there:], positions[:, there:])], dim=1)

    def _settled(self, h: Tensor, before: Tensor, says: Tensor, depth: int, rule: Freeze) -> int:
        """How many tokens at the front are still, and are what the coda says after the token before them."""
        h, before = h[0].float(), before[0].float()
        still = (h - before).norm(dim=-1) <= rule.change * h.norm(dim=-1)
        if self._steps >= depth:
            still = still | (torch.arange(len(still), device=still.device) == 0)
        right = torch.cat([still.new_ones(1), says[:-1] == self.tokens[1:]])
        return int((still & right).long().cumprod(0).sum())


def draft(model: RecurrentDepthModel, front: Front, count: int, depth: int, rule: Freeze) -> tuple[Tensor, int]:
    """The next `count` tokens by the newest states, and the rounds they took."""
    tokens, rounds = front.tokens[:0], 0
    while len(tokens) < count:  # what settles first is the token that the front began with
        tokens = torch.cat([tokens, front.advance(model, depth, rule, count - len(tokens))])
        rounds += 1
    return torch.cat([tokens, front.tokens[:1]])[1 : count + 1], rounds


def newest(memory: Memory, depth: int) -> Memory:
    """A memory by the newest states from one of every step: the keys and values of its last step are read."""
    taken = Memory()
    for (part, layer), kept in memory.slots.items():
        if part in ("embed", "decode"):
            taken.slots[part, layer] = kept
        elif part == ("step", depth - 1):
            taken.slots["step", layer] = kept
    taken.length = memory.length
    return taken


@torch.no_grad()
@spelled
def newest_states(
    model: RecurrentDepthModel, prompt: Tensor, count: int, depth: int, *, rule: Freeze | None = None
) -> Generated:
    """Greedy decoding by the newest state of each token: the fewest steps, without a guarantee.

    Args:
        model: by the four functions.
        prompt: `(P,)`, int64, at least one token, on the model's device.
        count: how many tokens to generate.
        depth: R, the most steps that a token takes once the tokens before it have settled.
        rule: when tokens settle; `Freeze()` when None.

    Raises:
        ValueError: for a prompt of another shape, and for `count` or `depth` below 1.
    """
    check_prompt(prompt, count=count, depth=depth)
    counted, memory = Counted(model), Memory()
    if len(prompt) > 1:
        memory.keep(all_steps(counted, memory, prompt[:-1], depth)[1], len(prompt) - 1)
    before, front = counted.work, Front(newest(memory, depth), prompt[-1:])
    tokens, rounds = draft(counted, front, count, depth, rule or Freeze())
    return Generated(tokens, counted.work - before, rounds)
