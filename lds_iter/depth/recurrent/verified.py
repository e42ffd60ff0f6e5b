"""Generation of a recurrent-depth model by newest states, verified: the tokens of the loop, exactly.

The newest states draft a block of tokens. One pass of R steps over the whole block, all tokens side by side, then says
what the loop says after each of them, for it computes what the loop computes. The drafted tokens up to the first that
differs are accepted, and there the pass has the right one; generation goes on from it (as in speculative decoding:
Leviathan et al. 2023). "What the loop computes" is up to the rounding of products of other sizes: exact in float32 up
to ties of two logits. The sequences of a batch accept what is right of their own, and do not wait for each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.depth.recurrent.choosing import Choose, chosen, most_likely
from lds_iter.depth.recurrent.model import RecurrentDepthModel, all_steps
from lds_iter.depth.recurrent.newest_states import Freeze, Front, checked_rule, draft, newest
from lds_iter.depth.recurrent.texts import Ends, Generated, Texts, read_prompts
from lds_iter.methods.spelling import spelled


@torch.no_grad()
@spelled
def verified(
    model: RecurrentDepthModel,
    prompt: Tensor,
    count: int,
    depth: int,
    *,
    rule: Freeze | None = None,
    block: int = 32,
    attention_mask: Tensor | None = None,
    eos_token_id: Ends = None,
    pad_token_id: int = 0,
    choose: Choose = most_likely,
) -> Generated:
    """The tokens of `one_by_one`, by drafts from newest states and a pass of R steps over each block of them.

    Args:
        model: by the four functions.
        prompt: `(P,)` or a batch `(B, P)`, padded on the left, int64, on the model's device.
        count: how many tokens to generate at most.
        depth: R, steps of the core for each token.
        rule: when drafted tokens settle; `Freeze()` when None. No rule changes a token; it changes the work.
        block: how many tokens to draft between two passes, at most; and at most twice as many as the pass before
            accepted, since all work behind a wrong draft is lost.
        attention_mask, eos_token_id, pad_token_id, choose: see `one_by_one`.

    Raises:
        TypeError, ValueError: see `one_by_one`; for a `block` below 1.
    """
    run = read_prompts(model, prompt, attention_mask, {"count": count, "depth": depth, "block": block}, eos_token_id)
    memory, last, texts, rounds, checks = run.memory, run.last, run.texts, 0, 0
    most = [block] * len(last)
    while texts.under_way:
        drafts = Texts([min(pair) for pair in zip(most, texts.left(), strict=True)], eos_token_id)
        front = Front(newest(memory, depth), last, texts.under_way)
        rounds, checks = rounds + draft(run.model, front, drafts, depth, checked_rule(rule), choose), checks + 1
        lines = zip(last, drafts.words, texts.left(), strict=True)
        read = [[token, *words][:left] for token, words, left in lines]  # what follows the last is not asked for
        positions = memory.positions([len(row) for row in read])
        logits, views = all_steps(run.model, memory, read, depth)
        says = chosen(choose, logits, positions, texts.under_way)
        accepted = [_accepted(*pair) for pair in zip(says, read, strict=True)]
        memory.keep(views, [len(words) for words in accepted])
        on = texts.write(accepted)
        memory, last = memory.take(on), [accepted[row][-1] for row in on]
        most = [min(block, 2 * len(accepted[row])) for row in on]
    return run.finished(rounds, checks, pad_token_id)


def _accepted(says: list[int], read: list[int]) -> list[int]:
    """What the pass says after the tokens read, up to the first that is not the one read next."""
    count = 1
    while count < len(read) and says[count - 1] == read[count]:
        count += 1
    return says[:count]
