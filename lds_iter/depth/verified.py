"""Generation of a recurrent-depth model by newest states, verified: the tokens of the loop, exactly.

The newest states draft a block of tokens. One pass of R steps over the whole block, all tokens side by side, then says
what the loop says after each of them, for it computes what the loop computes. The drafted tokens up to the first that
differs are accepted, and there the pass has the right one; generation goes on from it (as in speculative decoding:
Leviathan et al. 2023). "What the loop computes" is up to the rounding of products of other sizes: exact in float32 up
to ties of two logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.depth.newest_states import Freeze, Front, draft, newest
from lds_iter.depth.past import Memory
from lds_iter.depth.recurrent import Counted, Generated, RecurrentDepthModel, agreement, all_steps, check_prompt
from lds_iter.methods.spelling import spelled


@torch.no_grad()
@spelled
def verified(
    model: RecurrentDepthModel, prompt: Tensor, count: int, depth: int, *, rule: Freeze | None = None, block: int = 32
) -> Generated:
    """The tokens of `one_by_one`, by drafts from newest states and a pass of R steps over each block of them.

    Args:
        model: by the four functions.
        prompt: `(P,)`, int64, at least one token, on the model's device.
        count: how many tokens to generate.
        depth: R, steps of the core for each token.
        rule: when drafted tokens settle; `Freeze()` when None. No rule changes a token; it changes the work.
        block: how many tokens to draft between two passes, at most; and at most twice as many as the pass before
            accepted, since all work behind a wrong draft is lost.

    Raises:
        ValueError: for a prompt of another shape, and for `count`, `depth` or `block` below 1.
    """
    check_prompt(prompt, count=count, depth=depth, block=block)
    counted, memory, tokens = Counted(model), Memory(), prompt
    if len(prompt) > 1:
        memory.keep(all_steps(counted, memory, prompt[:-1], depth)[1], len(prompt) - 1)
    before, total, rounds, checks, most = counted.work, len(prompt) + count, 0, 0, block
    while len(tokens) < total:
        front = Front(newest(memory, depth), tokens[-1:])
        drafted, more = draft(counted, front, min(most, total - len(tokens)), depth, rule or Freeze())
        read = torch.cat([tokens[-1:], drafted])[: total - len(tokens)]  # what follows the last token is not asked for
        logits, views = all_steps(counted, memory, read, depth)
        says = logits.argmax(-1)
        right = agreement(says[: len(drafted)], drafted)
        accepted = says[: right + 1]
        memory.keep(views, len(accepted))
        tokens, rounds, checks = torch.cat([tokens, accepted]), rounds + more, checks + 1
        most = min(block, 2 * len(accepted))
    return Generated(tokens[len(prompt) :], counted.work - before, rounds, checks)
