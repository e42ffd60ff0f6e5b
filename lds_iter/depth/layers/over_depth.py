"""Any Hugging Face transformers model with a list of layers, as a recurrence over depth, through one call.

`over_depth(model, **inputs)` runs the model once and records the calls of its layers: masks, position embeddings and
all else that the model hands to them, except caches. Then it runs the model a second time, from *other* hidden states
below the first layer, and compares every layer's output there with that of the recurrence. Whatever a recording cannot
know shows then: a layer that is random, that keeps a state, or that reads more of the run than its arguments say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lds_iter.depth.layers.recorded_calls import Call, finish_with, watch, watch_from
from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.depth.layers.up_to_rounding import agree, others, state_dtype


def over_depth(
    model: nn.Module, input_ids: Tensor | None = None, *, layers: nn.ModuleList | None = None, **inputs: Any
) -> DepthRecurrence:
    """The layers of a transformers model as a recurrence; `s0` is the flattened input of the first layer.

    In grad mode, gradients reach all that the model is made of: the layers' parameters through `f`, and what lies below
    them (embeddings, prompts, `inputs_embeds`) through `s0`.

    Args:
        model: any model with a list of layers, in evaluation mode, on any device and in any dtype; wrapped by PEFT or
            by `torch.compile` too.
        input_ids: tokens `(batch, tokens)`; None where the model takes other inputs.
        layers: which list, where the model has several, such as `model.decoder.block`; the one with the longest chain
            of calls when None.
        inputs: what else the model takes, such as `attention_mask`, `inputs_embeds`, `pixel_values`.

    Returns:
        A recurrence of T = number of layer calls over states `(batch, tokens * width)`, float32 for layers in half
        precision. Rows of one shared layer are evaluated as one batch, rows of different layers one by one. Its
        `finish` runs the model's final norm and head. For forward-mode derivatives load the model with
        `attn_implementation="eager"`, or solve within `li.depth.forward_mode()`.

    Raises:
        ValueError: where no chain of layers is found, where a part of the model is in training mode, or where a layer
            by itself does not do what it does in the model.
        TypeError: for a model that is no `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be an nn.Module, got {type(model).__name__}. Of a pipeline type `pipeline.model`."
        )
    if input_ids is not None:
        inputs["input_ids"] = input_ids
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which hides the layers from hooks
    calls = watch(model, inputs, layers)
    first = calls[0].hidden
    same = all(call.layer is calls[0].layer and _same_arguments(call, calls[0]) for call in calls)

    def f(s: Tensor, index: Tensor) -> Tensor:
        hidden = s.unflatten(-1, first.shape[1:])
        if same:
            return calls[0](hidden.flatten(0, 1)).view(s.shape)
        rows = [calls[depth](row) for depth, row in zip(index.tolist(), hidden, strict=True)]
        return torch.stack(rows).flatten(2)

    problem = DepthRecurrence(
        f,
        first.flatten(1).to(state_dtype(first.dtype)),
        torch.arange(len(calls), device=first.device),
        first.shape[1:],
        lambda hidden: finish_with(model, inputs, calls, hidden),
    )
    _check_on_other_states(model, inputs, calls, problem)
    return problem


@torch.no_grad()
def _check_on_other_states(
    model: nn.Module, inputs: dict[str, Any], calls: list[Call], problem: DepthRecurrence
) -> None:
    """The model, run from other hidden states, and the recurrence do the same at every depth; then as recorded."""
    for run in watch_from(model, inputs, calls, others(calls[0].hidden)), calls:
        if len(run) != len(calls):
            raise ValueError(
                f"{type(model).__name__} called its layers {len(calls)} times on one input and not so on another: its "
                "depth depends on the data, and is no recurrence of a fixed length."
            )
        before = torch.stack([call.hidden for call in run]).flatten(2).to(problem.s0.dtype)
        after = problem.unflatten(problem.f(before, problem.inputs))
        for depth, call in enumerate(run):
            if not agree(after[depth], call.output.to(after.dtype), call.output.dtype):
                raise ValueError(
                    f"Layer {depth} ({type(call.layer).__name__}) by itself does not do what it does in the model. In "
                    "order of likelihood: it is random (type `model.eval()`); it keeps a state of its own; it reads "
                    "more of the run than its arguments. `li.depth.loop(layers, h0)` takes layers that you wrap."
                )


def _same_arguments(a: Call, b: Call) -> bool:
    if len(a.args) != len(b.args) or a.kwargs.keys() != b.kwargs.keys():
        return False
    pairs = [*zip(a.args, b.args, strict=True), *((a.kwargs[name], b.kwargs[name]) for name in a.kwargs)]
    return all(_same(x, y) for x, y in pairs)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x is y or (x.shape == y.shape and torch.equal(x, y))
    if isinstance(x, tuple) and isinstance(y, tuple):
        return len(x) == len(y) and all(_same(a, b) for a, b in zip(x, y, strict=True))
    return x is y or (type(x) is type(y) and not isinstance(x, Tensor) and x == y)
