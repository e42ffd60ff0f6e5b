"""Huginn and its kin: recurrent-depth language models that come with their own code (`trust_remote_code`).

They share an interface (Geiping et al. 2025, `raven_modeling_minimal.py`):

    e, block_idx = model.embed_inputs(input_ids)                     the prelude
    h = model.initialize_state(e)                                    h_0, random
    h, ... = model.core_block_forward(h, e, freqs_cis, ...)          one step of the core
    model.predict_from_latents(h).logits                             the coda

`iterate_one_step` is the same step under `torch.no_grad()`, which would hide the derivatives from Newton's kin and from
training, so the step is taken from `core_block_forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipes.recurrent_depth.depth import DepthRecurrence, injected

INTERFACE = ("embed_inputs", "initialize_state", "core_block_forward", "predict_from_latents")


@dataclass(frozen=True)
class HuginnDepth:
    """`recurrence` over the steps of the core, and `finish`, from its last state `(batch, D)` to logits."""

    recurrence: DepthRecurrence
    finish: Callable[[Tensor], Tensor]


def load(name: str = "tomg-group-umd/huginn-0125", *, revision: str | None = None) -> nn.Module:
    """A recurrent-depth model from the Hub or a folder, in float32. Runs the code that comes with it.

    Its file was written for transformers 4, where `_tied_weights_keys` is a list; transformers 5 wants to know which
    weight each is tied to, so a list is turned into that before the weights are read.
    """
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(name, trust_remote_code=True, revision=revision)
    reference = getattr(config, "auto_map", {}).get("AutoModelForCausalLM")
    if reference is None:
        raise ValueError(f"`{name}` brings no code of its own (`auto_map`). Type hugging_face.over_depth(model).")
    kind: Any = get_class_from_dynamic_module(reference, name, revision=revision)
    missing = [method for method in INTERFACE if not hasattr(kind, method)]
    if missing:
        raise ValueError(f"{kind.__name__} of `{name}` has no {', '.join(missing)}: not a model like Huginn.")
    if isinstance(kind._tied_weights_keys, list):
        kind._tied_weights_keys = dict.fromkeys(kind._tied_weights_keys, "transformer.wte.weight")
    return kind.from_pretrained(name, config=config, dtype=torch.float32, revision=revision).eval()


def over_depth(model: Any, input_ids: Tensor, depth: int | None = None, *, seed: int = 0) -> HuginnDepth:
    """The recurrence of a loaded model.

    Args:
        model: as `load` returns it; solve within `attention.forward_mode()` with a method that needs derivatives.
        input_ids: `(batch, tokens)`.
        depth: steps of the core; the model's mean recurrence when None.
        seed: of the initial state, which Huginn draws at random.

    Raises:
        ValueError: where the model adds noise at every step (`test_time_noise`), which is no recurrence.
    """
    if getattr(model.config, "test_time_noise", 0):
        raise ValueError("`config.test_time_noise` must be 0: noise drawn in every evaluation leaves no fixed point.")
    e, block_idx = model.embed_inputs(input_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        h0 = model.initialize_state(e)
    freqs = model.freqs_cis[:, : input_ids.shape[1]]

    def core(h: Tensor, rows: Tensor) -> Tensor:
        return model.core_block_forward(h, rows, freqs, None, None, block_idx, 0)[0]

    recurrence = injected(core, h0, e, model.config.mean_recurrence if depth is None else depth)
    return HuginnDepth(recurrence, lambda last: model.predict_from_latents(recurrence.unflatten(last)).logits)
