"""Generation of a recurrent-depth model by the newest state of each token (Geiping et al. 2025, arXiv 2510.14961).

Several tokens are in flight. In every round each takes a step of the core, reading the newest states of the tokens
before it; the coda says the token after each, which the next one takes for its draft. The first tokens in flight settle
when a step changes them by less than `freeze`, relatively, and at the latest after R steps; then their keys and values
are kept. This is little work, and its tokens are those of no particular depth: on a core that contracts, and with a
small `freeze`, they are nearly always those of the loop. `verified` makes sure.

The sequences of a batch go at their own pace: each has its own number of tokens in flight.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.depth.recurrent.choosing import Choose, chosen, most_likely
from lds_iter.depth.recurrent.memory import Memory, View
from lds_iter.depth.recurrent.model import RecurrentDepthModel
from lds_iter.depth.recurrent.texts import Ends, Generated, Texts, filled_up, read_prompts
from lds_iter.methods.spelling import Composable, spelled


@dataclass(frozen=True)
class Freeze(Composable):
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
    """The tokens in flight of a batch, behind those of a memory.

    Args:
        memory: of the settled tokens, by the newest states: parts "embed", "step" and "decode".
        last: the first token in flight of each sequence: said by the last settled one, or given.
        sequences: their numbers, which noise belongs to.
    """

    def __init__(self, memory: Memory, last: Sequence[int], sequences: Sequence[int]) -> None:
        self.memory, self.tokens, self.sequences = memory, [[token] for token in last], list(sequences)
        self._states: Tensor | None = None
        self._known = [0] * len(last)  # how many tokens in flight have a state already
        self._steps = [0] * len(last)  # of the first token in flight, since those before it have settled

    def advance(
        self, model: RecurrentDepthModel, depth: int, rule: Freeze, wanted: Sequence[int], choose: Choose
    ) -> list[list[int]]:
        """One round; returns what the tokens that settled say. At most `wanted` tokens are in flight from now on."""
        tokens = filled_up(self.tokens, self.memory.device)
        positions = self.memory.positions([len(there) for there in self.tokens])
        views: dict[Hashable, View] = {part: self.memory.view(part) for part in ("embed", "step", "decode")}
        e = model.embed(tokens, positions, views["embed"])
        h = before = self._with_starts(model, e, positions)
        for _ in range(rule.inner):
            views["step"] = self.memory.view("step")
            before, h = h, model.step(h, e, positions, views["step"])
        says = chosen(choose, model.decode(h, positions, views["decode"]), positions, self.sequences)
        self._steps = [steps + rule.inner for steps in self._steps]
        settled = self._settled(_still(h, before, rule.change), says, depth)
        self.memory.keep(views, settled)
        self._move_on(h, says, settled, [min(rule.flight, most) for most in wanted])
        return [words[:count] for words, count in zip(says, settled, strict=True)]

    def only(self, rows: Sequence[int]) -> None:
        """Go on with these sequences of the batch."""
        if len(rows) < len(self.tokens) and rows:
            self.memory = self.memory.take(rows)
            self.tokens, self.sequences = [self.tokens[row] for row in rows], [self.sequences[row] for row in rows]
            self._known, self._steps = [self._known[row] for row in rows], [self._steps[row] for row in rows]
            self._states = None if self._states is None else self._states[list(rows)]

    def _with_starts(self, model: RecurrentDepthModel, e: Tensor, positions: Tensor) -> Tensor:
        """The states in flight, and the start of the tokens that have none yet."""
        if self._states is None:
            return model.start(e, positions)
        first, states = min(self._known), self._states[:, : e.shape[1]]
        if first == e.shape[1]:
            return states
        fresh = torch.cat([states[:, :first], model.start(e[:, first:], positions[:, first:])], dim=1)
        states = torch.cat([states, fresh[:, states.shape[1] :]], dim=1)
        known = torch.arange(e.shape[1], device=e.device) < torch.tensor(self._known, device=e.device)[:, None]
        return torch.where(known[..., None], states, fresh)

    def _settled(self, still: list[list[bool]], says: list[list[int]], depth: int) -> list[int]:
        """How many tokens at the front are still, and are what the coda says after the token before them."""
        counts = []
        for tokens, calm, words, steps in zip(self.tokens, still, says, self._steps, strict=True):
            count = 0
            while count < len(tokens):
                right = count == 0 or words[count - 1] == tokens[count]
                if not right or not (calm[count] or (count == 0 and steps >= depth)):
                    break
                count += 1
            counts.append(count)
        return counts

    def _move_on(self, h: Tensor, says: list[list[int]], settled: list[int], most: list[int]) -> None:
        """Drop the tokens that settled, and take what the coda says after each for the next one's draft."""
        index = torch.arange(h.shape[1], device=h.device) + torch.tensor(settled, device=h.device)[:, None]
        self._states = h.gather(1, index.clamp(max=h.shape[1] - 1)[..., None].expand_as(h))
        for row, (words, count) in enumerate(zip(says, settled, strict=True)):
            there = len(self.tokens[row])
            following = [self.tokens[row][0], *words[:there]][count:]
            self.tokens[row] = following[: max(1, most[row] - count)]
            self._known[row] = min(there - count, len(self.tokens[row]))
            self._steps[row] = 0 if count else self._steps[row]


def _still(h: Tensor, before: Tensor, change: float) -> list[list[bool]]:
    """Whether the last step changed the state of a token by at most `change`, relative to its norm."""
    h, before = h.float(), before.float()
    return ((h - before).norm(dim=-1) <= change * h.norm(dim=-1)).tolist()


def checked_rule(rule: Freeze | None) -> Freeze:
    """The rule, `Freeze()` where there is none."""
    if not isinstance(rule, Freeze | None):
        raise TypeError(f"`rule` must be a `li.depth.Freeze`, got {rule!r}. Type `li.depth.Freeze(0.003)`.")
    return rule or Freeze()


def draft(model: RecurrentDepthModel, front: Front, texts: Texts, depth: int, rule: Freeze, choose: Choose) -> int:
    """Write the texts by the newest states, to their ends; returns the rounds that it took."""
    rounds = 0
    while texts.under_way:
        front.only(texts.write(front.advance(model, depth, rule, texts.left(), choose)))
        rounds += 1
    return rounds


def newest(memory: Memory, depth: int) -> Memory:
    """A memory by the newest states from one of every step: the keys and values of its last step are read."""
    return memory.parts({"embed": "embed", "decode": "decode", ("step", depth - 1): "step"})


@torch.no_grad()
@spelled
def newest_states(
    model: RecurrentDepthModel,
    prompt: Tensor,
    count: int,
    depth: int,
    *,
    rule: Freeze | None = None,
    attention_mask: Tensor | None = None,
    eos_token_id: Ends = None,
    pad_token_id: int = 0,
    choose: Choose = most_likely,
) -> Generated:
    """Decoding by the newest state of each token: the fewest steps, without a guarantee.

    Args:
        model: by the four functions.
        prompt: `(P,)` or a batch `(B, P)`, padded on the left, int64, on the model's device.
        count: how many tokens to generate at most.
        depth: R, the most steps that a token takes once the tokens before it have settled.
        rule: when tokens settle; `Freeze()` when None.
        attention_mask, eos_token_id, pad_token_id, choose: see `one_by_one`.

    Raises:
        TypeError, ValueError: see `one_by_one`.
    """
    run = read_prompts(model, prompt, attention_mask, {"count": count, "depth": depth}, eos_token_id)
    front = Front(newest(run.memory, depth), run.last, run.texts.under_way)
    rounds = draft(run.model, front, run.texts, depth, checked_rule(rule), choose)
    return run.finished(rounds, 0, pad_token_id)
