"""Greedy decoding of a recurrent-depth model: token by token, and as a wavefront over (token, depth)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li
from recipes.recurrent_depth.cells import Depths, advance, past, prefill, say
from recipes.recurrent_depth.lattice import Lattice, Record, Tally
from recipes.recurrent_depth.model import RecurrentDepth

TOLERANCE = 1e-6
"""On the residual. The model's own products round at a few 1e-7; the gap between two tokens' logits is far above."""


@dataclass(frozen=True)
class Generated:
    """What a decoder returns.

    Attributes:
        tokens: generated, `(count,)`.
        rounds: evaluations that had to follow one another, of `inner` steps of the core each.
        evaluated: rows evaluated in all; token by token, as many as rounds.
    """

    tokens: Tensor
    rounds: int
    evaluated: int


@torch.no_grad()
def one_by_one(model: RecurrentDepth, prompt: Tensor, count: int, depths: Depths) -> Generated:
    """Greedy decoding as usual: each token to its full depth, then the next; earlier tokens are cached.

    Args:
        model: with its weights.
        prompt: `(P,)`, at least one token.
        count: how many tokens to generate.
        depths: of each token; with `halt` the steps that change nothing are saved.
    """
    states, tokens, rounds = prefill(model, prompt[:-1], depths), prompt, 0
    for _ in range(count):
        e = model.prelude(tokens)
        seen, position = past(model, states, e[:-1]), torch.tensor([len(tokens) - 1])
        h = torch.zeros(1, model.shape.width)
        for _ in range(depths.rows):
            before, h = h, advance(model, h, e[-1:], position, seen, depths)
            rounds += 1
            if depths.halt and torch.equal(before, h):
                break
        states = torch.cat([states, h])
        tokens = torch.cat([tokens, say(model, h, position, seen)])
    return Generated(tokens[len(prompt) :], rounds, rounds)


@torch.no_grad()
def wavefront(model: RecurrentDepth, prompt: Tensor, count: int, depths: Depths, *, flight: int = 16) -> Generated:
    """The same tokens by `li.solve` over the lattice, several tokens at once.

    Args:
        model: with its weights.
        prompt: `(P,)`, at least one token.
        count: how many tokens to generate.
        depths: of each token.
        flight: tokens under way at the same time; the window is as many times `depths.rows` rows.
    """
    tally = Tally()
    lattice = Lattice(model, prompt, count, depths, tally=tally)
    solution = li.solve(
        lattice, lattice.s0, lattice.inputs, Record(lattice), rtol=0, atol=TOLERANCE, window=flight * depths.rows
    )
    _, tokens = lattice.split(solution.states[-1])
    return Generated(tokens, int(solution.iterations), sum(tally.evaluated))


@torch.no_grad()
def whole_again(model: RecurrentDepth, prompt: Tensor, count: int, depth: int) -> Tensor:
    """Greedy decoding without any cache: the whole sequence to its full depth for every token, each depth reading the
    *same* depth of earlier tokens, as in training. The yardstick for what the shared cache changes."""
    tokens = prompt
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens, depth)[-1:].argmax(-1)])
    return tokens[len(prompt) :]


def agreement(a: Tensor, b: Tensor) -> int:
    """How many tokens are the same before the first that differs."""
    return int((a == b).to(torch.int64).cumprod(0).sum())
