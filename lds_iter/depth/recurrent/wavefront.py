"""Decoding of a recurrent-depth model as a wavefront over (token, depth): one solve, exact at every depth."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.depth.recurrent.choosing import Choose, most_likely
from lds_iter.depth.recurrent.lattice import Lattice, Record
from lds_iter.depth.recurrent.memory import Memory
from lds_iter.depth.recurrent.model import Counted, RecurrentDepthModel
from lds_iter.depth.recurrent.texts import Begun, Ends, Generated, Texts
from lds_iter.methods.spelling import spelled
from lds_iter.solve import solve

TOLERANCE = 1e-6
"""On the residual. The model's own products round at a few 1e-7; the gap between two tokens' logits is far above."""


@torch.no_grad()
@spelled
def wavefront(
    model: RecurrentDepthModel,
    prompt: Tensor,
    count: int,
    rows: int,
    *,
    inner: int = 1,
    flight: int = 16,
    attention_mask: Tensor | None = None,
    eos_token_id: Ends = None,
    pad_token_id: int = 0,
    choose: Choose = most_likely,
) -> Generated:
    """The tokens of the recurrence over (token, depth), several at once, by `li.solve`.

    Each token reads the final states of those before it, so the tokens are those of `one_by_one` where R steps reach
    the core's fixed point. How many rounds it takes depends on the rounding of the device a little, since tokens settle
    at rounding level. The texts of a batch go at their own pace. `verified` makes the same tokens with a small part of
    the work.

    Args:
        model: by the four functions; its attention must take the mask of its cache.
        prompt: `(P,)` or a batch `(B, P)`, padded on the left, int64, on the model's device.
        count: how many tokens to generate.
        rows: rows of the recurrence for each token.
        inner: steps of the core for each row, so that R = rows * inner.
        flight: tokens under way at the same time; the window is as many times `rows`.
        attention_mask, pad_token_id, choose: see `one_by_one`.
        eos_token_id: a token, or several, that end a text. The text is cut behind it; all `count` tokens are solved
            for, since what a text says is known at the end.

    Raises:
        TypeError: for tokens that are not whole numbers.
        ValueError: for a prompt or a mask of another shape or padded on the right, and for numbers below 1.
    """
    counted = Counted(model)
    lattice = Lattice(counted, prompt, count, rows, inner, choose, attention_mask)
    before = counted.work
    solution = solve(lattice, lattice.s0, lattice.inputs, Record(lattice), rtol=0, atol=TOLERANCE, window=flight * rows)
    texts = Texts([count] * len(lattice.prompts), eos_token_id)
    texts.write(lattice.split(solution.states[-1])[1].view(-1, count).tolist())
    begun = Begun(counted, Memory(device=prompt.device), [], texts, before, prompt.ndim == 1)
    return begun.finished(int(solution.iterations.max()), 0, pad_token_id)
