"""Jacobi decoding of an ordinary language model (Santilli et al. 2023), as a recurrence on discrete states.

Greedy decoding is the recurrence `x_n = argmax p(. | prompt, x_0 .. x_{n-1})`. With the whole line of tokens as state,

    row n:   line[n] <- argmax p(. | prompt, line[:n]),   everything else copied,

it is of first order, the copied part has the identity for its Jacobian, and Picard's method, A = I, is Jacobi decoding:
guess n tokens, evaluate the model on all of them at once, and set each token to what the model says after those before
it. The frontier is the verification: a row is accepted when the model, reading accepted tokens, says what stands there.
So every iteration accepts the right prefix and one token more, and the outcome is the greedy one, token for token; the
states are whole numbers, and so are the residuals, so `rtol = atol = 0` is met exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li

LanguageModel = Callable[[Tensor], Tensor]
"""Tokens `(N, L)`, int64, to logits `(N, L, vocabulary)`; causal."""


class Line:
    """The recurrence `f(s, n)` over tokens; the state is the line of generated tokens as float32, exact below 2**24.

    Args:
        model: any causal language model.
        prompt: `(P,)`, at least one token.
        count: how many tokens to generate.
    """

    def __init__(self, model: LanguageModel, prompt: Tensor, count: int) -> None:
        if prompt.ndim != 1 or len(prompt) < 1 or count < 1:
            raise ValueError(f"`prompt` must be (P,) with P >= 1 and `count` >= 1, got {tuple(prompt.shape)}, {count}.")
        self.model, self.prompt, self.count = model, prompt, count
        self.s0, self.inputs = torch.zeros(count), torch.arange(count)

    def __call__(self, s: Tensor, n: Tensor) -> Tensor:
        """Rows `(rows, count)` to the next ones. Rows whose lines continue each other share one pass of the model."""
        line, value = s.long(), s.clone()
        read = torch.arange(self.count) < n[:-1, None]
        nested = ((line[1:] == line[:-1]) | ~read).all(-1)
        bounds = [0, *((~nested).nonzero().flatten() + 1).tolist(), len(n)]
        for first, stop in itertools.pairwise(bounds):
            rows = torch.arange(first, stop)
            tokens = torch.cat([self.prompt, line[stop - 1, : int(n[stop - 1])]])
            says = self.model(tokens[None])[0].argmax(-1)
            value[rows, n[rows]] = says[len(self.prompt) - 1 + n[rows]].to(s.dtype)
        return value


@dataclass(frozen=True)
class Decoded:
    """What Jacobi decoding returns.

    Attributes:
        tokens: generated, `(count,)`.
        rounds: iterations, each one pass of the model, or two side by side.
        evaluated: tokens that the model was asked for, over all rounds; `count` one by one.
    """

    tokens: Tensor
    rounds: int
    evaluated: int


@torch.no_grad()
def greedy(model: LanguageModel, prompt: Tensor, count: int) -> Tensor:
    """The loop that Jacobi decoding replaces: one pass of the model per token."""
    tokens = prompt
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens[None])[0, -1:].argmax(-1)])
    return tokens[len(prompt) :]


@torch.no_grad()
def jacobi_decoding(
    model: LanguageModel, prompt: Tensor, count: int, *, ahead: int | None = None, draft: Tensor | None = None
) -> Decoded:
    """Exactly the greedy tokens, several per pass where the guess is right.

    Args:
        model: any causal language model.
        prompt: `(P,)`, at least one token.
        count: how many tokens to generate.
        ahead: how many tokens beyond the accepted ones to guess, the window; all of them when None.
        draft: the first guess, `(count,)`; token 0 everywhere when None.
    """
    line = Line(model, prompt, count)
    guess = torch.zeros(count, count) if draft is None else draft.to(line.s0.dtype).expand(count, count).tril()
    solution = li.solve(line, line.s0, line.inputs, li.Picard(), guess=guess, rtol=0, atol=0, window=ahead)
    return Decoded(solution.states[-1].long(), int(solution.iterations), int(solution.evaluations))


def looked_up(prompt: Tensor, count: int, *, match: int = 3) -> Tensor:
    """A draft from the prompt itself: what followed the latest earlier occurrence of its last `match` tokens, repeated
    as needed (prompt lookup decoding, Saxena 2023); the last token, repeated, where there is none."""
    if len(prompt) > match:
        windows = prompt[:-1].unfold(0, match, 1)
        found = (windows == prompt[-match:]).all(-1).nonzero().flatten()
        if len(found):
            following = prompt[int(found[-1]) + match :]
            return following.repeat(-(-count // len(following)))[:count]
    return prompt[-1:].expand(count)
