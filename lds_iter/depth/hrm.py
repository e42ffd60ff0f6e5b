"""transformers' own recurrent-depth language model, `hrm_text`, as a recurrence over depth.

Two stacks take turns on two states, for H_cycles times (L_cycles times the low one, once the high one):

    z_L = L(z_L + z_H)                  low:  fast
    z_H = H(z_H + z_L)                  high: slow

One row is one call of a stack; the state is (z_H, z_L), ravelled. z_H starts as the embedded tokens; unlike in Huginn
they are not injected again, so nothing makes this recurrence contract unless training did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import lds_iter as li
from recipes.recurrent_depth.depth import DepthRecurrence
from recipes.recurrent_depth.hugging_face import Call


@dataclass(frozen=True)
class HrmDepth:
    """`recurrence` over the calls of the stacks, and `finish`, from its last state `(batch, D)` to logits."""

    recurrence: DepthRecurrence
    finish: Callable[[Tensor], Tensor]


def load(name: str) -> nn.Module:
    """A model of the kind `hrm_text`, from the Hub or a folder, with attention that has forward-mode derivatives."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager", dtype=torch.float32)
    if model.config.model_type != "hrm_text":
        raise ValueError(
            f"`{name}` is a {model.config.model_type}, not an hrm_text. Type hugging_face.over_depth(model)."
        )
    return model.eval()


def over_depth(model: Any, input_ids: Tensor, **inputs: Any) -> HrmDepth:
    """The recurrence of a loaded `HrmTextForCausalLM`.

    Args:
        model: as `load` returns it.
        input_ids: `(batch, tokens)`.
        inputs: what else its forward takes, such as `attention_mask`.
    """
    low, high, config = model.model.L_module, model.model.H_module, model.config
    calls: list[Call] = []

    def record(stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        kept = {key: value for key, value in kwargs.items() if key != "past_key_values"}
        calls.append(Call(stack, args[1:], kept, args[0], output))

    hooks = [stack.register_forward_hook(record, with_kwargs=True) for stack in (low, high)]
    try:
        with torch.no_grad():
            model(input_ids, use_cache=False, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    e = model.model.embed_tokens(input_ids) * model.model.embedding_scale
    s0, unravel = li.ravel((e, torch.zeros_like(e) + model.model.z_L_init), batch_dims=1)
    by_kind = [next(call for call in calls if call.layer is stack) for stack in (low, high)]
    kinds = torch.tensor(([0] * config.L_cycles + [1]) * config.H_cycles)

    def f(s: Tensor, kind: Tensor) -> Tensor:
        z_high, z_low = unravel(s)
        new = [z_high.clone(), z_low.clone()]
        for number, state in (0, 1), (1, 0):
            rows = (kind == number).nonzero().flatten()
            if len(rows):
                total = (z_high + z_low)[rows]
                new[state] = new[state].index_copy(0, rows, by_kind[number](total.flatten(0, 1)).view(total.shape))
        return li.ravel(tuple(new), batch_dims=s.ndim - 1)[0]

    recurrence = DepthRecurrence(f, s0, kinds, torch.Size((2, *e.shape[1:])))
    return HrmDepth(recurrence, lambda last: model.lm_head(unravel(last)[0]))
