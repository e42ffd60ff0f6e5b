"""Huginn and its kin: recurrent-depth language models that come with their own code (`trust_remote_code`).

They share an interface (Geiping et al. 2025, `raven_modeling_minimal.py`):

    e, block_idx = model.embed_inputs(input_ids)                     the prelude
    h = model.initialize_state(e)                                    h_0, random
    h, ... = model.core_block_forward(h, e, freqs_cis, ...)          one step of the core
    model.predict_from_latents(h).logits                             the coda

`iterate_one_step` is the same step under `torch.no_grad()`, which would hide the derivatives from Newton's kin and from
training, so the step is taken from `core_block_forward`.

`huginn_over_depth` is the recurrence over the steps of one sequence; with `Huginn` the ways of generation of
`lds_iter.depth` run on such a model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.depth.layers.stacks import injected
from lds_iter.depth.recurrent.memory import View
from lds_iter.methods.spelling import spelled

INTERFACE = ("embed_inputs", "initialize_state", "core_block_forward", "predict_from_latents")


@spelled
def load_huginn(
    name: str = "tomg-group-umd/huginn-0125", *, trust_remote_code: bool = False, revision: str | None = None
) -> nn.Module:
    """A recurrent-depth model from the Hub or a folder, in float32, by the code that comes with it.

    Its file was written for transformers 4, where `_tied_weights_keys` is a list; transformers 5 wants to know which
    weight each is tied to, so a list is turned into that before the weights are read.

    Args:
        name: of the model on the Hub, or a folder.
        trust_remote_code: True to run the Python file that comes with the weights, which can do whatever you can.
        revision: the commit of the Hub's repository that you have read; must be given for a name on the Hub.

    Raises:
        ValueError: without `trust_remote_code=True`; for a name on the Hub without `revision`; for a model that brings
            no code, or code without this interface.
    """
    if not trust_remote_code:
        raise ValueError(
            f"`{name}` comes with Python code of its own, which loading runs. Read it, then type "
            f'li.depth.load_huginn("{name}", trust_remote_code=True, revision="<the commit that you read>").'
        )
    if revision is None and not Path(name).is_dir():
        raise ValueError(
            f"`{name}` is not a folder, and without `revision` the code of today's newest commit would run, whatever "
            'it is. Type revision="<the commit that you read>".'
        )
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(name, trust_remote_code=True, revision=revision)
    reference = getattr(config, "auto_map", {}).get("AutoModelForCausalLM")
    if reference is None:
        raise ValueError(f"`{name}` brings no code of its own (`auto_map`). Type li.depth.over_depth(model).")
    kind: Any = get_class_from_dynamic_module(reference, name, revision=revision)
    missing = [method for method in INTERFACE if not hasattr(kind, method)]
    if missing:
        raise ValueError(f"{kind.__name__} of `{name}` has no {', '.join(missing)}: not a model like Huginn.")
    if isinstance(kind._tied_weights_keys, list):
        kind._tied_weights_keys = dict.fromkeys(kind._tied_weights_keys, "transformer.wte.weight")
    return kind.from_pretrained(name, config=config, dtype=torch.float32, revision=revision).eval()


@spelled
def huginn_over_depth(model: Any, input_ids: Tensor, depth: int | None = None, *, seed: int = 0) -> DepthRecurrence:
    """The recurrence of a loaded model over the steps of its core; its `finish` goes from the last state to logits.

    Args:
        model: as `load_huginn` returns it; solve within `li.depth.forward_mode()` with a method that needs derivatives.
        input_ids: `(batch, tokens)`.
        depth: steps of the core; the model's mean recurrence when None.
        seed: of the initial state, which Huginn draws at random.

    Raises:
        ValueError: where the model adds noise at every step (`test_time_noise`), which is no recurrence.
    """
    check_no_noise(model)
    e, block_idx = model.embed_inputs(input_ids)
    h0 = initial_state(model, e, seed)
    freqs = model.freqs_cis[:, : input_ids.shape[1]]

    def core(h: Tensor, rows: Tensor) -> Tensor:
        return model.core_block_forward(h, rows, freqs, None, None, block_idx.clone(), 0)[0]  # it counts on in place

    recurrence = injected(core, h0, e, model.config.mean_recurrence if depth is None else depth)
    return replace(recurrence, head=lambda last: model.predict_from_latents(last.to(e.dtype)).logits)


def check_no_noise(model: Any) -> None:
    """The model draws nothing at random in a step."""
    if getattr(model.config, "test_time_noise", 0):
        raise ValueError("`config.test_time_noise` must be 0: noise drawn in every evaluation leaves no fixed point.")


def initial_state(model: Any, e: Tensor, seed: int) -> Tensor:
    """The model's random initial state of the shape of `e`, the same for a seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[e.device] if e.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return model.initialize_state(e)


class Huginn:
    """A model like Huginn by the four functions of `RecurrentDepthModel`.

    Its attention makes its own causal mask, so tokens at hand must follow one another: `one_by_one`, `newest_states`
    and `verified` run on it, one prompt at a time. `wavefront` does not, nor do batches, whose texts go at their own
    pace.

    Args:
        model: as `load_huginn` returns it.
        seed: of the initial states, which Huginn draws at random; here of a position always the same.

    Raises:
        ValueError: where the model adds noise at every step (`test_time_noise`).
    """

    def __init__(self, model: Any, *, seed: int = 0) -> None:
        check_no_noise(model)
        self.model, self.seed = model, seed

    def embed(self, tokens: Tensor, positions: Tensor, past: View) -> Tensor:
        return self.model.embed_inputs(tokens, cache_position=_line(positions, past), past_key_values=past)[0]

    def start(self, e: Tensor, positions: Tensor) -> Tensor:
        seeds = [self.seed * 1_000_003 + position for position in positions[0].tolist()]
        starts = [initial_state(self.model, part, seed) for part, seed in zip(e.split(1, dim=1), seeds, strict=True)]
        return torch.cat(starts, dim=1) if starts else e

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View) -> Tensor:
        freqs = self.model.freqs_cis[:, _line(positions, past)]
        before_core = torch.tensor(
            len(self.model.transformer.prelude) - 1, device="cpu"
        )  # the model counts on in place
        return self.model.core_block_forward(h, e, freqs, None, past, before_core, 0)[0]

    def decode(self, h: Tensor, positions: Tensor, past: View) -> Tensor:
        return self.model.predict_from_latents(h, cache_position=_line(positions, past), past_key_values=past).logits


def _line(positions: Tensor, past: View) -> Tensor:
    """The positions `(n,)` of tokens that follow one another, of all sequences alike."""
    if len(positions) > 1 and past.items is None:
        raise ValueError(
            "Huginn's attention takes no mask, which the sequences of a batch need. Generate them one by one: "
            "`[li.depth.verified(model, prompt, count, depth).tokens for prompt in prompts]`."
        )
    if past.items is not None:
        raise ValueError(
            "Huginn's attention takes no mask, which tokens at several depths side by side need. Type "
            "`li.depth.verified(model, prompt, count, depth)`, whose tokens are exactly those of the loop."
        )
    return positions[0]
