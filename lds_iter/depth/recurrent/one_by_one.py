"""The loop of a recurrent-depth language model, token by token: all ways of generation here are measured against it."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.depth.recurrent.choosing import Choose, chosen, most_likely
from lds_iter.depth.recurrent.model import RecurrentDepthModel, all_steps
from lds_iter.depth.recurrent.texts import Ends, Generated, read_prompts
from lds_iter.methods.spelling import spelled


@torch.no_grad()
@spelled
def one_by_one(
    model: RecurrentDepthModel,
    prompt: Tensor,
    count: int,
    depth: int,
    *,
    attention_mask: Tensor | None = None,
    eos_token_id: Ends = None,
    pad_token_id: int = 0,
    choose: Choose = most_likely,
) -> Generated:
    """Decoding as usual: each token to its full depth, then the next; keys and values of every step are cached.

    Args:
        model: by the four functions.
        prompt: `(P,)` or a batch `(B, P)`, padded on the left, int64, on the model's device.
        count: how many tokens to generate at most.
        depth: R, steps of the core for each token.
        attention_mask: of the batch, 0 where there is padding, `(B, P)`.
        eos_token_id: a token, or several, that end a text. A text that has ended leaves the batch.
        pad_token_id: what stands behind texts that have ended.
        choose: how a token is chosen from its logits: the likeliest, or `Sample(seed)`.

    Raises:
        TypeError: for tokens that are not whole numbers.
        ValueError: for a prompt or a mask of another shape or padded on the right, and for numbers below 1.
    """
    run = read_prompts(model, prompt, attention_mask, {"count": count, "depth": depth}, eos_token_id)
    memory, last, rounds = run.memory, run.last, 0
    while run.texts.under_way:
        positions = memory.positions([1] * len(last))
        logits, views = all_steps(run.model, memory, [[token] for token in last], depth)
        memory.keep(views, [1] * len(last))
        said = chosen(choose, logits, positions, run.texts.under_way)
        on = run.texts.write(said)
        memory, last, rounds = memory.take(on), [said[row][0] for row in on], rounds + 1
    return run.finished(rounds, 0, pad_token_id)
