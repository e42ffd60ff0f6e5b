"""One token at a time: the model's blocks on single tokens that read the keys and values of those before them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.recurrent_depth.model import Block, RecurrentDepth


@dataclass(frozen=True)
class Depths:
    """How deep each token is computed.

    Attributes:
        rows: rows of the recurrence per token.
        inner: steps of the core per row, so that R = rows * inner.
        halt: a token is left as it is where a row would change it by at most this, relative to its norm; 0 for never.
    """

    rows: int = 16
    inner: int = 1
    halt: float = 0.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.inner < 1 or not self.halt >= 0:
            raise ValueError(f"`rows` and `inner` must be at least 1 and `halt` not negative, got {self}.")


@dataclass(frozen=True)
class Past:
    """What tokens read of those before: keys and values, `(heads, L, head width)` each, of core and coda."""

    core: tuple[Tensor, Tensor]
    coda: tuple[Tensor, Tensor]


def past(model: RecurrentDepth, h: Tensor, e: Tensor) -> Past:
    """Keys and values of tokens 0..L-1 with states `h` and embedded inputs `e`, `(L, width)` each."""
    positions = torch.arange(h.shape[0])
    core = model.core_block.keys_values(model.norm_core(h + e), positions)
    return Past(core, model.last.keys_values(model.norm_last(h), positions))


def attend(block: Block, x: Tensor, position: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
    """The update of single tokens that read themselves and all of the past before their own positions.

    Args:
        block: of the model.
        x: its normalised input, `(B, width)`.
        position: of each token, `(B,)`.
        keys_values: `(heads, L, head width)` each; entries at or after a token's own position are not read.
    """
    x, at = x.unsqueeze(1), position.unsqueeze(1)
    q, (k_own, v_own), (k, v) = block.queries(x, at), block.keys_values(x, at), keys_values
    unread = torch.arange(k.shape[1]) >= at
    before = torch.einsum("bhqd,hld->bhql", q, k).masked_fill(unread[:, None, None], -torch.inf)
    weight = torch.cat([before, (q * k_own).sum(-1, keepdim=True)], dim=-1).softmax(-1)
    read = torch.einsum("bhql,hld->bhqd", weight[..., :-1], v) + weight[..., -1:] * v_own
    return block.rest(x, read).squeeze(1)


def advance(model: RecurrentDepth, h: Tensor, e: Tensor, position: Tensor, seen: Past, depths: Depths) -> Tensor:
    """One row of the recurrence for single tokens, `(B, width)`: `inner` steps of the core, or none where it halts."""
    new = h
    for _ in range(depths.inner):
        new = e + model.gain * attend(model.core_block, model.norm_core(new + e), position, seen.core)
    if depths.halt == 0:
        return new
    still = (new - h).norm(dim=-1, keepdim=True) <= depths.halt * new.norm(dim=-1, keepdim=True)
    return torch.where(still, h, new)


def say(model: RecurrentDepth, h: Tensor, position: Tensor, seen: Past) -> Tensor:
    """The likeliest next token after single tokens of states `h`, `(B, width)` to `(B,)`."""
    x = h + attend(model.last, model.norm_last(h), position, seen.coda)
    return model.head(model.norm_out(x)).argmax(-1)


def prefill(model: RecurrentDepth, tokens: Tensor, depths: Depths) -> Tensor:
    """The final states of a prompt, `(P,)` to `(P, width)`, all tokens at once."""
    if not len(tokens):
        return torch.zeros(0, model.shape.width)
    e = model.prelude(tokens)
    h = torch.zeros_like(e)
    for _ in range(depths.rows * depths.inner):
        h = model.core(h, e)
    return h
