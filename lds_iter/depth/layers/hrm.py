"""transformers' own recurrent-depth language model, `hrm_text`, as a recurrence over depth.

Two stacks take turns on two states, for H_cycles times (L_cycles times the low one, once the high one):

    z_L = L(z_L + z_H)                  low:  fast
    z_H = H(z_H + z_L)                  high: slow

One row is one call of a stack; the state is (z_H, z_L), ravelled. z_H starts as the embedded tokens; unlike in Huginn
they are not injected again, so nothing makes this recurrence contract unless training did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lds_iter.depth.layers.recorded_calls import Call, without_caches
from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.depth.layers.up_to_rounding import agree, others, state_dtype
from lds_iter.recurrence import ravel


def load_hrm(name: str) -> nn.Module:
    """A model of the kind `hrm_text`, in evaluation mode and float32, with attention that has forward-mode derivatives.

    Args:
        name: of a model on the Hub, or a folder.

    Raises:
        ValueError: for a model of another kind.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager", dtype=torch.float32)
    if model.config.model_type != "hrm_text":
        raise ValueError(f"`{name}` is a {model.config.model_type}, not an hrm_text. Type li.depth.over_depth(model).")
    return model.eval()


def hrm_over_depth(model: Any, input_ids: Tensor, **inputs: Any) -> DepthRecurrence:
    """The recurrence of a loaded `HrmTextForCausalLM`; its `finish` goes from the last state to logits.

    Args:
        model: as `load_hrm` returns it, in evaluation mode.
        input_ids: `(batch, tokens)`.
        inputs: what else its forward takes, such as `attention_mask`.

    Raises:
        ValueError: where the recurrence does not give the logits of the model, on hidden states of no particular kind.
    """
    low, high, config = model.model.L_module, model.model.H_module, model.config
    calls = _record_stacks(model, {"input_ids": input_ids, **inputs})
    by_kind = [next(call for call in calls if call.layer is stack) for stack in (low, high)]
    kinds = torch.tensor(([0] * config.L_cycles + [1]) * config.H_cycles, device=input_ids.device)
    embedded = model.model.embed_tokens(input_ids)

    def start(embedded: Tensor) -> tuple[Tensor, Tensor]:
        e = (embedded * model.model.embedding_scale).to(state_dtype(embedded.dtype))
        return e, torch.zeros_like(e) + model.model.z_L_init

    s0, unravel = ravel(start(embedded), batch_dims=1)

    def f(s: Tensor, kind: Tensor) -> Tensor:
        z_high, z_low = unravel(s)
        new = [z_high.clone(), z_low.clone()]
        for number, state in (0, 1), (1, 0):
            rows = (kind == number).nonzero().flatten()
            if len(rows):
                total = (z_high + z_low)[rows]
                new[state] = new[state].index_copy(0, rows, by_kind[number](total.flatten(0, 1)).view(total.shape))
        return ravel(tuple(new), batch_dims=s.ndim - 1)[0]

    def head(states: Tensor) -> Tensor:
        return model.lm_head(states[..., 0, :, :].to(embedded.dtype))

    problem = DepthRecurrence(f, s0, kinds, torch.Size((2, *embedded.shape[1:])), head)
    _check_on_other_embeddings(model, inputs, problem, others(embedded), start)
    return problem


@torch.no_grad()
def _check_on_other_embeddings(
    model: Any, inputs: dict[str, Any], problem: DepthRecurrence, embedded: Tensor, start: Any
) -> None:
    """The recurrence from other embeddings than the recorded ones gives the logits that the model gives."""
    theirs = model(inputs_embeds=embedded, use_cache=False, **inputs).logits
    s = ravel(start(embedded), batch_dims=1)[0].unsqueeze(0)
    for depth in range(len(problem.inputs)):
        s = problem.f(s, problem.inputs[depth : depth + 1])
    if not agree(problem.finish(s[0]), theirs, theirs.dtype):
        raise ValueError(
            f"{type(model).__name__} by its stacks gives other logits than by itself. In order of likelihood: it is in "
            "training mode (type `model.eval()`); `past_key_values` was passed (pass all tokens and no cache)."
        )


def _record_stacks(model: Any, inputs: dict[str, Any]) -> list[Call]:
    """The calls of the two stacks in one run of the model."""
    calls: list[Call] = []

    def record(stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls.append(Call(stack, without_caches(args[1:]), without_caches(kwargs), args[0], output))

    stacks = model.model.L_module, model.model.H_module
    hooks = [stack.register_forward_hook(record, with_kwargs=True) for stack in stacks]
    try:
        with torch.no_grad():
            model(**{"use_cache": False, **inputs})
    finally:
        for hook in hooks:
            hook.remove()
    return calls
