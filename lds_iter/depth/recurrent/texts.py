"""Prompts, and the texts of a batch under way: each at a length of its own, until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.depth.recurrent.memory import Memory, filled_up
from lds_iter.depth.recurrent.model import CallCounts, Counted, RecurrentDepthModel, all_steps

Ends = int | Sequence[int] | Tensor | None
"""What `eos_token_id` may be: no token, one, or several that end a text."""


@dataclass(frozen=True)
class Generated:
    """What every way of generation here returns.

    Attributes:
        tokens: generated, `(n,)` for one prompt `(P,)`, else `(B, n)` with `pad_token_id` behind texts that ended.
        work: after the prompts, which all ways read alike and which are not counted.
        rounds: of the way: tokens of the loop, iterations of the wavefront, rounds of the newest states.
        checks: passes of R steps over drafted tokens, where the way verifies.
        lengths: tokens of each text, with the one that ended it, `(B,)`; `()` for one prompt `(P,)`.
    """

    tokens: Tensor
    work: CallCounts
    rounds: int
    checks: int
    lengths: Tensor


class Texts:
    """Texts under way.

    Args:
        counts: how many tokens each gets at most.
        eos_token_id: the tokens that end a text.

    Attributes:
        words: of each, so far.
        under_way: numbers of the texts that have not ended.
    """

    def __init__(self, counts: Sequence[int], eos_token_id: Ends) -> None:
        ends = [] if eos_token_id is None else torch.as_tensor(eos_token_id, device="cpu").flatten().tolist()
        self._counts, self._ends = list(counts), frozenset(ends)
        self.words: list[list[int]] = [[] for _ in counts]
        self.under_way = [number for number, count in enumerate(counts) if count > 0]

    def left(self) -> list[int]:
        """How many tokens each of the texts under way may still get."""
        return [self._counts[number] - len(self.words[number]) for number in self.under_way]

    def write(self, new: Sequence[Sequence[int]]) -> list[int]:
        """Append to the texts under way, each up to its end; returns which of them, counted among these, go on."""
        on = []
        for row, (number, words) in enumerate(zip(self.under_way, new, strict=True)):
            text = self.words[number]
            for word in words[: self._counts[number] - len(text)]:
                text.append(word)
                if word in self._ends:
                    break
            if len(text) < self._counts[number] and not (text and text[-1] in self._ends):
                on.append(row)
        self.under_way = [self.under_way[row] for row in on]
        return on


@dataclass
class Begun:
    """Prompts that have been read, but for their last tokens, and the texts to follow them.

    Attributes:
        model: counts its calls.
        memory: of the prompts but for their last tokens.
        last: the last tokens.
        texts: empty yet.
        before: the calls over the prompts.
        single: whether there is one prompt `(P,)`, and no batch.
    """

    model: Counted
    memory: Memory
    last: list[int]
    texts: Texts
    before: CallCounts
    single: bool

    def finished(self, rounds: int, checks: int, pad_token_id: int) -> Generated:
        """The texts as tensors."""
        words = self.texts.words
        tokens, lengths = (
            filled_up(words, self.memory.device, pad_token_id),
            torch.tensor([len(text) for text in words], device="cpu"),
        )
        if self.single:
            tokens, lengths = tokens[0], lengths[0]
        return Generated(tokens, self.model.work - self.before, rounds, checks, lengths)


def read_prompts(
    model: RecurrentDepthModel,
    prompt: Tensor,
    attention_mask: Tensor | None,
    counts: dict[str, int],
    eos_token_id: Ends,
) -> Begun:
    """Check the arguments and read the prompts; `counts` holds `count`, `depth` and other numbers of at least 1."""
    prompts = checked_prompts(prompt, attention_mask, **counts)
    counted, memory = Counted(model), Memory(len(prompts), prompt.device)
    if max(map(len, prompts)) > 1:
        read = [words[:-1] for words in prompts]
        memory.keep(all_steps(counted, memory, read, counts["depth"])[1], [len(words) for words in read])
    texts = Texts([counts["count"]] * len(prompts), eos_token_id)
    last = [words[-1] for words in prompts]
    return Begun(counted, memory, last, texts, counted.work, prompt.ndim == 1)


def checked_prompts(prompt: Tensor, attention_mask: Tensor | None, **numbers: int) -> list[list[int]]:
    """The tokens of every prompt without its padding; numbers of at least 1."""
    if not isinstance(prompt, Tensor):
        raise TypeError(
            f"`prompt` must be a tensor of tokens, got {type(prompt).__name__}. Type `torch.tensor(prompt)`."
        )
    if prompt.ndim not in (1, 2) or not prompt.numel():
        raise ValueError(f"`prompt` must be (P,), or (B, P) with P >= 1, got {tuple(prompt.shape)}.")
    if prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise TypeError(f"`prompt` must hold whole numbers, got {prompt.dtype}. Type `prompt.long()`.")
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {number!r}.")
    tokens = prompt.reshape(-1, prompt.shape[-1]).tolist()
    if attention_mask is None:
        return tokens
    if attention_mask.shape != prompt.shape:
        raise ValueError(
            f"`attention_mask` must be as the prompt is, {tuple(prompt.shape)}, got {tuple(attention_mask.shape)}."
        )
    mask = attention_mask.reshape(-1, prompt.shape[-1]).bool().tolist()
    if not all(row == sorted(row) and row[-1] for row in mask):
        raise ValueError(
            "`attention_mask` must be 0 on the left and 1 on the right, with a token in every row: text is generated "
            'at the right end. Type tokenizer.padding_side = "left".'
        )
    return [[word for word, real in zip(*pair, strict=True) if real] for pair in zip(tokens, mask, strict=True)]


def agreement(a: Tensor, b: Tensor) -> int:
    """How many tokens are the same before the first that differs.

    Args:
        a: tokens, `(n,)`.
        b: tokens, `(n,)`.
    """
    return int((a == b).to(torch.int64).cumprod(0).sum())
