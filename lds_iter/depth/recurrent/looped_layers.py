"""Looped language models: a whole stack of layers applied again and again, with the final norm after every loop.

That is the shape of Ouro (Zhu et al. 2025, arXiv 2510.25741) and of universal transformers (Dehghani et al. 2019). The
embedded tokens are the first state and are not injected again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.layers.recorded_calls import hidden_of
from lds_iter.depth.layers.up_to_rounding import agree
from lds_iter.depth.recurrent.memory import Memory, View
from lds_iter.depth.recurrent.model import all_steps

OWN = "Write the four functions of `li.depth.RecurrentDepthModel` for it."
LLAMA_PARTS = ("embed_tokens", "layers", "rotary_emb", "norm")


class Looped:
    """A transformers model with layers like Llama's, by the four functions of `RecurrentDepthModel`.

    One step is all layers once, and the final norm. With R = 1 it is the model itself, as a run of a few tokens checks.

    Args:
        model: with `model.model.embed_tokens`, `.layers`, `.rotary_emb` and `.norm`, and `model.lm_head`, as
            `LlamaForCausalLM`, `Qwen3ForCausalLM` or `MistralForCausalLM` have them; without sliding windows.

    Raises:
        TypeError: for a model of other parts.
        ValueError: for a model whose attention slides over a window, or that does more than these parts do.
    """

    def __init__(self, model: Any) -> None:
        missing = [part for part in LLAMA_PARTS if not hasattr(getattr(model, "model", None), part)]
        if missing or not hasattr(model, "lm_head"):
            raise TypeError(
                f"`model` must have layers like Llama's, with `model.{', model.'.join(LLAMA_PARTS)}` and `lm_head`, "
                f"got {type(model).__name__}. {OWN}"
            )
        self.model = model
        self._check(model.config)

    @torch.no_grad()
    def _check(self, config: Any) -> None:
        """One loop gives the logits of the model."""
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
            raise ValueError(
                f"{type(self.model).__name__} has attention over a window (`layer_types` {sorted(kinds)}, "
                f"`sliding_window` {getattr(config, 'sliding_window', None)}); here each token reads all before it. "
                f"{OWN}"
            )
        tokens = torch.arange(min(8, config.vocab_size), device=self.model.device)
        ours, _ = all_steps(self, Memory(1, tokens.device), [tokens.tolist()], 1)
        theirs = self.model(tokens[None], use_cache=False).logits
        if not agree(ours, theirs, self.model.dtype):
            raise ValueError(
                f"{type(self.model).__name__} gives other logits than its layers, norm and head one after the other. "
                "In order of likelihood: it is in training mode (type `model.eval()`); it scales or caps on the way. "
                f"{OWN}"
            )

    def embed(self, tokens: Tensor, positions: Tensor, past: View) -> Tensor:  # noqa: ARG002
        return self.model.model.embed_tokens(tokens)

    def start(self, e: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        return e

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View) -> Tensor:  # noqa: ARG002
        base = self.model.model
        mask = torch.zeros(1, dtype=h.dtype, device=h.device)
        mask = mask.masked_fill(~past.mask(h.shape[1], h.device), torch.finfo(h.dtype).min)  # eager attention adds it
        given = {
            "attention_mask": mask.expand(h.shape[0], -1, -1, -1),
            "position_ids": positions,
            "position_embeddings": base.rotary_emb(h, positions),
            "past_key_values": past,
        }
        for layer in base.layers:
            h = hidden_of(layer(h, **given))
        return base.norm(h)

    def decode(self, h: Tensor, positions: Tensor, past: View) -> Tensor:  # noqa: ARG002
        return self.model.lm_head(h)
