"""Several tokens a pass from any transformers language model: `generate` with one more argument.

Each round drafts the next tokens, reads them in one batched pass behind the key-value cache, and accepts those that the
model says itself after the ones before, and one more. The cache is then rolled back to what was accepted. So the output
is that of `generate`, token for token where a token's logits do not depend on its company: in float32 up to ties of two
logits. In half precision a pass over several tokens rounds differently, and close calls may go the other way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.decoding.coupled_noise import CoupledNoise
from lds_iter.depth.decoding.drafts import Draft, own_words
from lds_iter.depth.decoding.rounds import WAY_ROUND, Rounds


def parallel_generate(
    model: Any,
    input_ids: Tensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    ahead: int = 16,
    draft: Draft = own_words,
    seed: int | None = None,
    streamer: Any = None,
    **generate_arguments: Any,
) -> Any:
    """`model.generate(input_ids, ...)`, several tokens a pass.

    Args:
        model: any decoder-only transformers model with `generate`, on any device.
        input_ids: prompts `(B, n)`, padded on the left; None where `inputs_embeds` are given.
        attention_mask: 0 where there is padding, `(B, n)`.
        ahead: how many tokens to draft in a round. A batch advances by what its slowest sequence accepts.
        draft: where drafts come from: `own_words` (Jacobi decoding), `Lookup()`, or a callable of your own.
        seed: of the noise, with `do_sample=True`: the tokens depend on it and not on `ahead` or `draft`. Drawn from
            torch's generator when None.
        streamer: gets every token as it is accepted; of transformers.
        generate_arguments: as `generate` takes them, such as `max_new_tokens`, `eos_token_id`, `stopping_criteria`,
            `logits_processor`, `do_sample`. `use_cache=False` serves models whose cache cannot roll back.

    Returns:
        What `generate` returns: tokens `(B, n + new)`, or with `return_dict_in_generate=True` an output that also says
        `passes` and `evaluated`.

    Raises:
        ValueError: for what this cannot do: beams, encoder-decoder models, caches that cannot roll back; says what to
            type instead. For prompts of another shape, and tokens outside of the vocabulary.
        TypeError: for a model without `generate`, prompts that are no tensor, a `draft` that is no callable.

    The same by transformers' own call: `model.generate(ids, custom_generate=li.depth.parallel_decode, ahead=16)`.
    """
    if "assistant_model" in generate_arguments:
        raise ValueError(
            "`assistant_model` must be left out. Type draft=FUNCTION: of the tokens (B, n) and the model's own words "
            "for the next ones (B, ahead) it returns a guess of them, for which it may call a small model."
        )
    if not hasattr(model, "generate"):
        raise TypeError(
            f"`model` must be a transformers language model with `generate`, got {type(model).__name__}. Of a callable "
            "that returns logits: `li.depth.jacobi_decoding(model, prompt, count)`."
        )
    _check_drafting(ahead, draft, seed)
    if input_ids is not None:
        _check_prompts(input_ids)
    if attention_mask is not None:
        generate_arguments["attention_mask"] = attention_mask
    mine = {"custom_generate": parallel_decode, "ahead": ahead, "draft": draft, "seed": seed, "tokens_to": streamer}
    return model.generate(input_ids, streamer=streamer, **mine, **generate_arguments)


@torch.no_grad()
def parallel_decode(
    model: Any,
    input_ids: Tensor,
    *,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    ahead: int = 16,
    draft: Draft = own_words,
    seed: int | None = None,
    tokens_to: Any = None,
    **model_kwargs: Any,
) -> Any:
    """The decoding loop of `parallel_generate`, as `custom_generate` of transformers' `generate` takes it.

    Processors and stopping criteria are called once for each accepted token, in order, as `generate` calls them.

    Args:
        model, input_ids, logits_processor, stopping_criteria, generation_config: as `generate` prepares them.
        synced_gpus: must be False.
        streamer: gets every token as it is accepted.
        ahead, draft, seed: see `parallel_generate`.
        tokens_to: a streamer. transformers 5.23 gives the prompt to its `streamer` and forgets it on the way to a
            callable, so name it here as well.
        model_kwargs: what else the model is called with: its cache, masks, positions.

    Raises:
        ValueError: see `parallel_generate`.
    """
    _check(model, generation_config, synced_gpus, model_kwargs)
    _check_drafting(ahead, draft, seed)
    noise = None
    if generation_config.do_sample:
        noise = CoupledNoise(int(torch.randint(1 << 62, (), device="cpu")) if seed is None else seed)
    streamer = tokens_to if streamer is None else streamer
    run = Rounds(
        model, input_ids, model_kwargs, generation_config, logits_processor, stopping_criteria, noise, streamer
    )
    drafted = input_ids[:, :0]
    while run.live.any():
        logits = run.read(drafted)
        said = run.accept(logits, drafted)
        most = ahead if generation_config.max_length is None else generation_config.max_length - 1 - run.tokens.shape[1]
        said = torch.cat([said, said[:, -1:].expand(-1, ahead)], dim=1)[:, : max(0, min(ahead, most))]
        drafted = draft(run.tokens, said)[:, : said.shape[1]] if run.live.any() else said
        _check_draft(drafted, said)
        drafted = run.ended_as_they_go_on(drafted)
    if streamer is not None:
        streamer.end()
    return run.output() if generation_config.return_dict_in_generate else run.tokens


def _check_prompts(input_ids: Any) -> None:
    if not isinstance(input_ids, Tensor):
        raise TypeError(
            f"`input_ids` must be a tensor (B, n), got {type(input_ids).__name__}. Of what a tokenizer returns type "
            "`li.depth.parallel_generate(model, **encoded)`."
        )
    if input_ids.ndim != 2:
        raise ValueError(
            f"`input_ids` must be (B, n), got {tuple(input_ids.shape)}. Type `input_ids[None]` for one text."
        )


def _check_drafting(ahead: Any, draft: Any, seed: Any) -> None:
    if not isinstance(ahead, int) or ahead < 1:
        raise ValueError(f"`ahead` must be a whole number of at least 1, got {ahead!r}.")
    if not callable(draft):
        raise TypeError(
            f"`draft` must be a callable, got {draft!r}. Type `li.depth.own_words`, `li.depth.Lookup()`, or a function "
            "of (tokens, said)."
        )
    if seed is not None and not isinstance(seed, int):
        raise TypeError(f"`seed` must be a whole number, got {seed!r}.")


def _check(model: Any, config: Any, synced_gpus: bool, model_kwargs: dict[str, Any]) -> None:
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder model, and parallel_generate takes decoder-only ones. Type "
            "li.depth.jacobi_decoding(lambda tokens: model(input_ids=source, decoder_input_ids=tokens).logits, ...)."
        )
    if config.num_beams and config.num_beams > 1:
        raise ValueError(f"`num_beams` must be 1, got {config.num_beams}: a beam has no one next token to draft.")
    others = {
        "penalty_alpha": "contrastive search chooses tokens by another rule",
        "dola_layers": "DoLa chooses tokens by another rule",
        "prompt_lookup_num_tokens": "type draft=li.depth.Lookup()",
    }
    for name, why in others.items():
        if getattr(config, name, None):
            raise ValueError(f"`{name}` must be left out, got {getattr(config, name)}: {why}.")
    if synced_gpus:
        raise ValueError("`synced_gpus` must be False: ranks would take different numbers of passes.")
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise ValueError("`output_attentions` and `output_hidden_states` must be False: drafted tokens have them, too.")
    if getattr(model, "_is_stateful", False) and model_kwargs.get("use_cache", True):
        raise ValueError(f"{type(model).__name__} keeps a state that cannot roll back to accepted tokens. {WAY_ROUND}")


def _check_draft(drafted: Tensor, said: Tensor) -> None:
    if drafted.ndim != 2 or len(drafted) != len(said) or drafted.dtype != said.dtype:
        raise ValueError(
            f"`draft` must return tokens ({len(said)}, at most {said.shape[1]}) in {said.dtype}, got "
            f"{tuple(drafted.shape)} in {drafted.dtype}."
        )
