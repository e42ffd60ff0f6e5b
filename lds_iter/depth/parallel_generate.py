"""Several tokens a pass from any transformers language model: `generate` with one more argument.

Each round drafts the next tokens, reads them in one batched pass behind the key-value cache, and accepts those that the
model says itself after the ones before, and one more. The cache is then rolled back to what was accepted. So the output
is that of `generate`, token for token where a token's logits do not depend on its company: in float32 up to ties of two
logits. In half precision a pass over several tokens rounds differently, and close calls may go the other way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.drafts import CoupledNoise, Draft, own_words


def parallel_generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    ahead: int = 16,
    draft: Draft = own_words,
    seed: int | None = None,
    **generate_arguments: Any,
) -> Any:
    """`model.generate(input_ids, ...)`, several tokens a pass.

    Args:
        model: any decoder-only transformers model with `generate`, on any device.
        input_ids: prompts `(B, n)`, padded on the left.
        attention_mask: 0 where there is padding, `(B, n)`.
        ahead: how many tokens to draft in a round. A batch advances by what its slowest sequence accepts.
        draft: where drafts come from: `own_words` (Jacobi decoding), `Lookup()`, or a callable of your own.
        seed: of the noise, with `do_sample=True`: the tokens depend on it and not on `ahead` or `draft`. Drawn from
            torch's generator when None.
        generate_arguments: as `generate` takes them, such as `max_new_tokens`, `eos_token_id`, `stopping_criteria`,
            `logits_processor`, `streamer`, `do_sample`. `use_cache=False` serves models whose cache cannot roll back.

    Returns:
        What `generate` returns: tokens `(B, n + new)`, or with `return_dict_in_generate=True` an output that also says
        `passes` and `evaluated`.

    Raises:
        ValueError: for what this cannot do: beams, encoder-decoder models, caches that cannot roll back; says what to
            type instead.

    Example:
        >>> li.depth.parallel_generate(model, ids, max_new_tokens=64)           # = model.generate(ids, max_new_tokens=64)
        >>> model.generate(ids, max_new_tokens=64, custom_generate=li.depth.parallel_decode, ahead=16)   # the same call
    """
    if attention_mask is not None:
        generate_arguments["attention_mask"] = attention_mask
    mine = {"custom_generate": parallel_decode, "ahead": ahead, "draft": draft, "seed": seed}
    return model.generate(input_ids, **mine, **generate_arguments)


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
    **model_kwargs: Any,
) -> Any:
    """The decoding loop of `parallel_generate`, as `custom_generate` of transformers' `generate` takes it.

    `generate` prepares everything but the last three named arguments; see `parallel_generate` for those. Processors and
    stopping criteria are called once for each accepted token, in order, as `generate` calls them.
    """
    _check(model, generation_config, synced_gpus, ahead, model_kwargs)
    noise = None
    if generation_config.do_sample:
        noise = CoupledNoise(int(torch.randint(1 << 62, ())) if seed is None else seed)
    run = _Run(model, input_ids, model_kwargs, generation_config, logits_processor, stopping_criteria, noise, streamer)
    drafted = input_ids[:, :0]
    while run.live.any():
        logits = run.read(drafted)
        said = run.accept(logits, drafted)
        most = ahead if generation_config.max_length is None else generation_config.max_length - 1 - run.tokens.shape[1]
        said = torch.cat([said, said[:, -1:].expand(-1, ahead)], dim=1)[:, : max(0, min(ahead, most))]
        drafted = draft(run.tokens, said)[:, : said.shape[1]] if run.live.any() else said
        _check_draft(drafted, said)
    if streamer is not None:
        streamer.end()
    return run.output() if generation_config.return_dict_in_generate else run.tokens


@dataclass
class _Run:
    """One generation under way.

    Attributes:
        tokens: so far, `(B, n)`.
        inputs: what the model is called with beside them, as long as they are.
        live: the sequences that have not ended, `(B,)`.
    """

    model: Any
    tokens: Tensor
    inputs: dict[str, Any]
    config: Any
    processor: Any
    criteria: Any
    noise: CoupledNoise | None
    streamer: Any
    passes: int = 0
    evaluated: int = 0
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = torch.ones(len(self.tokens), dtype=torch.bool, device=self.tokens.device)
        self._pads = any(hasattr(criterion, "eos_token_id") for criterion in self.criteria)

    @property
    def cache(self) -> Any:
        """The key-value cache, where there is one."""
        return self.inputs.get("past_key_values")

    def read(self, drafted: Tensor) -> Tensor:
        """One pass: logits after the last token and after each drafted one, `(B, drafted + 1, vocabulary)`."""
        seen = torch.cat([self.tokens, drafted], dim=1)
        inputs = self._longer(drafted.shape[1])
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = drafted.shape[1] + 1
        new = seen.shape[1] - (self.cache.get_seq_length() if self.cache is not None else 0)
        prepared = self.model.prepare_inputs_for_generation(
            seen, next_sequence_length=new, is_first_iteration=self.passes == 0, **inputs
        )
        out = self.model(**prepared, return_dict=True)
        self.passes, self.evaluated = self.passes + 1, self.evaluated + new
        if self.passes == 1 and self.cache is not None:
            _check_cache(self.model, self.cache)
            self.cache.activate_past_recording()  # after the prompt, or windows would keep all of it
        return out.logits[:, -(drafted.shape[1] + 1) :].to(torch.float32, copy=True)

    def accept(self, logits: Tensor, drafted: Tensor) -> Tensor:
        """Take tokens up to the first that was not drafted; returns the model's own words for those behind, `(B, k)`."""
        first = self.tokens.shape[1]
        taken = 0
        for number in range(logits.shape[1]):
            token = self._take(logits[:, number])
            taken = number + 1
            if not self.live.any() or number == drafted.shape[1]:
                break
            if bool((self.live & (token != drafted[:, number])).any()):
                break
        self.inputs = self._longer(taken)
        if self.cache is not None and self.passes > 1:
            self.cache.crop(self.tokens.shape[1] - 1 - self.cache.get_seq_length())
        return self._own_words(logits[:, taken:], first + taken)

    def _take(self, logits: Tensor) -> Tensor:
        """Choose the next token of every sequence, `(B,)`, and ask whether to stop, as `generate` does."""
        scores = self.processor(self.tokens, logits)
        if self.config.return_dict_in_generate and self.config.output_scores:
            self.scores.append(scores)
        if self.config.return_dict_in_generate and self.config.output_logits:
            self.logits.append(logits)
        token = self._choose(scores, self.tokens.shape[1])
        if self._pads:
            token = torch.where(self.live, token, self.config._pad_token_tensor.to(token.device))
        self.tokens = torch.cat([self.tokens, token[:, None]], dim=1)
        if self.streamer is not None:
            self.streamer.put(token.cpu())
        self.live = self.live & ~self.criteria(self.tokens, tuple(self.scores) or None)
        return token

    def _choose(self, scores: Tensor, position: int) -> Tensor:
        return (scores if self.noise is None else scores + self.noise(position, scores)).argmax(-1)

    def _own_words(self, logits: Tensor, first: int) -> Tensor:
        """Drafts of the tokens from position `first` on: without processors, which know accepted tokens only."""
        if not logits.shape[1]:
            return self.tokens[:, -1:]
        scores = logits / (self.config.temperature or 1.0) if self.noise is not None else logits
        return torch.stack([self._choose(scores[:, i], first + i) for i in range(logits.shape[1])], dim=1)

    def _longer(self, more: int) -> dict[str, Any]:
        """The model's inputs for `more` tokens than they were made for: masks, positions, token types."""
        if more == 0:
            return dict(self.inputs)
        return self.model._update_model_kwargs_for_generation({}, dict(self.inputs), num_new_tokens=more)

    def output(self) -> Any:
        """Tokens, scores, cache and counts."""
        from lds_iter.depth.parallel_output import ParallelGenerateOutput

        return ParallelGenerateOutput(
            sequences=self.tokens,
            scores=tuple(self.scores) or None,
            logits=tuple(self.logits) or None,
            past_key_values=self.cache,
            passes=self.passes,
            evaluated=self.evaluated,
        )


WAY_ROUND = "Type use_cache=False: every pass then reads the whole text again, which takes more work and no roll-back."


def _check(model: Any, config: Any, synced_gpus: bool, ahead: int, model_kwargs: dict[str, Any]) -> None:
    if ahead < 1:
        raise ValueError(f"`ahead` must be at least 1, got {ahead}.")
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder model, and parallel_generate takes decoder-only ones. Type "
            "li.depth.jacobi_decoding(lambda tokens: model(input_ids=source, decoder_input_ids=tokens).logits, ...)."
        )
    if config.num_beams and config.num_beams > 1:
        raise ValueError(f"`num_beams` must be 1, got {config.num_beams}: a beam has no one next token to draft.")
    if synced_gpus:
        raise ValueError("`synced_gpus` must be False: ranks would take different numbers of passes.")
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise ValueError("`output_attentions` and `output_hidden_states` must be False: drafted tokens have them, too.")
    if getattr(model, "_is_stateful", False) and model_kwargs.get("use_cache", True):
        raise ValueError(f"{type(model).__name__} keeps a state that cannot roll back to accepted tokens. {WAY_ROUND}")


def _check_cache(model: Any, cache: Any) -> None:
    if not getattr(cache, "is_croppable", False):
        raise ValueError(
            f"The cache of {type(model).__name__}, {type(cache).__name__}, cannot roll back to accepted tokens. "
            f"{WAY_ROUND} Of a static or quantized cache: leave `cache_implementation` out."
        )


def _check_draft(drafted: Tensor, said: Tensor) -> None:
    if drafted.ndim != 2 or len(drafted) != len(said) or drafted.dtype != said.dtype:
        raise ValueError(
            f"`draft` must return tokens ({len(said)}, at most {said.shape[1]}) in {said.dtype}, got "
            f"{tuple(drafted.shape)} in {drafted.dtype}."
        )
