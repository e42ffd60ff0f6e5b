"""Jacobi decoding of an ordinary language model (Santilli et al. 2023), as a recurrence on discrete states.

Greedy decoding is the recurrence `x_n = argmax p(. | prompt, x_0 .. x_{n-1})`. With the whole line of tokens as state,

    row n:   line[n] <- argmax p(. | prompt, line[:n]),   everything else copied,

it is of first order, the copied part has the identity for its Jacobian, and Picard's method, A = I, is Jacobi decoding:
guess n tokens, evaluate the model on all of them at once, and set each token to what the model says after those before
it. The frontier is the verification: a row is accepted when the model, reading accepted tokens, says what stands there.
So every iteration accepts the right prefix and one token more, and the outcome is the greedy one, token for token; the
states are whole numbers, and so are the residuals, so `rtol = atol = 0` is met exactly. "The greedy one" supposes that
the model gives a token the same logits in any company, which float32 does up to ties and half precision does not.

`parallel_generate` does the same with a window, a key-value cache, batches, stopping criteria and sampling; this is the
one to read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.methods.picard import Picard
from lds_iter.methods.spelling import spelled
from lds_iter.solve import solve

LanguageModel = Callable[[Tensor], Tensor]
"""Tokens `(N, L)`, int64, to logits `(N, L, vocabulary)`; causal."""


@dataclass
class Tally:
    """The work of a `Line`: calls of the model, and tokens that it read in them; filled while the line is used."""

    passes: int = 0
    evaluated: int = 0


class Line:
    """The recurrence `f(s, n)` over tokens; the state is the line of generated tokens as float32, exact below 2**24.

    Args:
        model: any causal language model.
        prompt: `(P,)`, int64, at least one token.
        count: how many tokens to generate.
    """

    def __init__(self, model: LanguageModel, prompt: Tensor, count: int) -> None:
        _check_prompt(prompt, count)
        self.model, self.prompt, self.count, self.tally = model, prompt, count, Tally()
        self.s0 = torch.zeros(count, device=prompt.device)
        self.inputs = torch.arange(count, device=prompt.device)

    def __call__(self, s: Tensor, n: Tensor) -> Tensor:
        """Rows `(rows, count)` to the next ones, by one call of the model.

        Rows whose lines continue each other share one sequence; sequences of other lines join the batch, padded.
        """
        line, value = s.long(), s.clone()
        read = self.inputs < n[:-1, None]
        nested = ((line[1:] == line[:-1]) | ~read).all(-1)
        bounds = [0, *((~nested).nonzero().flatten() + 1).tolist(), len(n)]
        stretches = list(itertools.pairwise(bounds))
        longest = int(n.max())
        tokens = torch.stack([line[stop - 1, :longest] for _, stop in stretches])
        says = self._says(torch.cat([self.prompt.expand(len(tokens), -1), tokens], dim=1))
        for number, (first, stop) in enumerate(stretches):
            rows = torch.arange(first, stop, device=s.device)
            value[rows, n[rows]] = says[number, len(self.prompt) - 1 + n[rows]].to(s.dtype)
        return value

    def _says(self, tokens: Tensor) -> Tensor:
        self.tally.passes += 1
        self.tally.evaluated += tokens.numel()
        return likeliest(self.model, tokens)


@dataclass(frozen=True)
class Decoded:
    """What Jacobi decoding returns.

    Attributes:
        tokens: generated, `(count,)`.
        rounds: iterations.
        passes: calls of the model, one after the other; one by one, `count`.
        evaluated: tokens that the model read, over all passes, prompt included.
    """

    tokens: Tensor
    rounds: int
    passes: int
    evaluated: int


@torch.no_grad()
def greedy(model: LanguageModel, prompt: Tensor, count: int) -> Tensor:
    """The loop that Jacobi decoding replaces: one pass of the model per token.

    Args:
        model: any causal language model.
        prompt: `(P,)`, int64, at least one token.
        count: how many tokens to generate.

    Raises:
        TypeError, ValueError: as `jacobi_decoding`.
    """
    _check_prompt(prompt, count)
    tokens = prompt
    for _ in range(count):
        tokens = torch.cat([tokens, likeliest(model, tokens[None])[0, -1:]])
    return tokens[len(prompt) :]


@torch.no_grad()
@spelled
def jacobi_decoding(model: LanguageModel, prompt: Tensor, count: int, *, draft: Tensor | None = None) -> Decoded:
    """Exactly the greedy tokens in float32, several per pass where the guess is right.

    Every round is one pass over all tokens to come, and `li.solve` makes two more to check the model; there is no
    window, since a window that slides is evaluated in two calls. `parallel_generate` has one that slides in one call.

    Args:
        model: any causal language model.
        prompt: `(P,)`, int64, at least one token.
        count: how many tokens to generate.
        draft: the first guess, `(count,)`, int64; token 0 everywhere when None.

    Raises:
        TypeError: for a model that does not return a tensor of logits, and tokens that are not whole numbers.
        ValueError: for a prompt or a draft of another shape, and negative tokens.
    """
    line = Line(model, prompt, count)
    guess = torch.zeros(count, count, device=prompt.device)
    if draft is not None:
        _check_one_draft(draft, count)
        guess = draft.to(line.s0).expand(count, count).tril()
    solution = solve(line, line.s0, line.inputs, Picard(), guess=guess, rtol=0, atol=0)
    tokens = solution.states[-1].long()
    return Decoded(tokens, int(solution.iterations), line.tally.passes, line.tally.evaluated)


@spelled
def looked_up(prompt: Tensor, count: int, *, match: int = 3) -> Tensor:
    """A draft from the prompt itself: what followed the latest earlier occurrence of its last `match` tokens, repeated
    as needed (prompt lookup decoding, Saxena 2023); the last token, repeated, where there is none.

    Args:
        prompt: `(P,)`, at least one token.
        count: how many tokens to draft.
        match: how many tokens have to agree.

    Raises:
        ValueError: for `match` below 1.
    """
    if match < 1:
        raise ValueError(f"`match` must be at least 1, got {match}.")
    if len(prompt) > match:
        windows = prompt[:-1].unfold(0, match, 1)
        found = (windows == prompt[-match:]).all(-1).nonzero().flatten()
        if len(found):
            following = prompt[int(found[-1]) + match :]
            return following.repeat(-(-count // len(following)))[:count]
    return prompt[-1:].expand(count)


def likeliest(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The model's next token after every position, `(N, L)` to `(N, L)`."""
    try:
        logits = model(tokens)
    except IndexError as error:
        raise ValueError(f"`model` cannot read token {int(tokens.max())}: it is outside of its vocabulary.") from error
    if not isinstance(logits, Tensor) or logits.shape[:-1] != tokens.shape:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(
            f"`model` must return logits {(*tokens.shape, 'vocabulary')} for tokens {tuple(tokens.shape)}, got {came}. "
            "For a transformers model type `lambda tokens: model(tokens).logits`."
        )
    return logits.argmax(-1)


def _check_prompt(prompt: Tensor, count: int) -> None:
    if prompt.ndim != 1 or len(prompt) < 1 or count < 1:
        raise ValueError(f"`prompt` must be (P,) with P >= 1 and `count` >= 1, got {tuple(prompt.shape)}, {count}.")
    _check_tokens("prompt", prompt)


def _check_one_draft(draft: Tensor, count: int) -> None:
    if draft.shape != (count,):
        raise ValueError(f"`draft` must be ({count},), one guess for every token, got {tuple(draft.shape)}.")
    _check_tokens("draft", draft)


def _check_tokens(name: str, tokens: Tensor) -> None:
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"`{name}` must hold whole numbers, got {tokens.dtype}. Type `{name}.long()`.")
    if tokens.numel() and int(tokens.min()) < 0:
        raise ValueError(f"`{name}` must hold numbers of tokens, got {int(tokens.min())}.")
