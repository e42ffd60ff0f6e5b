"""The rounds of `parallel_generate`: one batched pass over drafted tokens, then what of them is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.decoding.coupled_noise import CoupledNoise

WAY_ROUND = "Type use_cache=False: every pass then reads the whole text again, which takes more work and no roll-back."


@dataclass
class Rounds:
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
        self._nameless = 0  # places of the cache that none of the tokens here stands for: embeddings, an older text
        self._pads = any(hasattr(criterion, "eos_token_id") for criterion in self.criteria)

    @property
    def cache(self) -> Any:
        """The key-value cache, where there is one."""
        return self.inputs.get("past_key_values")

    def read(self, drafted: Tensor) -> Tensor:
        """One pass: logits after the last token and after each drafted one, `(B, drafted + 1, vocabulary)`."""
        asked = drafted.shape[1] + 1
        logits = self._continue(torch.cat([self.tokens, drafted], dim=1), asked) if self.passes else self._begin()
        self.passes += 1
        if logits.shape[1] < asked:
            raise ValueError(
                f"{type(self.model).__name__} returned logits for {logits.shape[1]} of {asked} tokens. Its "
                "`prepare_inputs_for_generation` cuts all but one away, as PEFT's does for learned prompts. "
                f"{WAY_ROUND} Or pass the prompt as `inputs_embeds`."
            )
        return logits[:, -asked:].to(torch.float32, copy=True)

    def ended_as_they_go_on(self, drafted: Tensor) -> Tensor:
        """Drafts with padding for the texts that have ended, where it is what they get."""
        if not self._pads:
            return drafted
        return torch.where(self.live[:, None], drafted, self.config._pad_token_tensor.to(drafted.device))

    def _begin(self) -> Tensor:
        """The first pass, transformers' own: embeddings or images for tokens, a cache that holds some, chunks."""
        before = self._cached()
        out = self.model._prefill(self.tokens, self.config, dict(self.inputs))
        if self.cache is None:
            self.evaluated = self.tokens.shape[1]
            return out.logits
        self.inputs["past_key_values"] = out.past_key_values  # an adapter may have put its own in its place
        _check_cache(self.model, self.cache)
        self.cache.activate_past_recording()  # after the prompt, or windows would keep all of it
        self.evaluated = self._cached() - before
        self._nameless = self._cached() - self.tokens.shape[1]
        return out.logits

    def _continue(self, seen: Tensor, asked: int) -> Tensor:
        """A pass over what the cache does not hold of all tokens seen."""
        inputs = self._longer(asked - 1)
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = asked
        new = seen.shape[1] + self._nameless - self._cached()
        self.evaluated += new
        prepared = self.model.prepare_inputs_for_generation(
            seen, next_sequence_length=new, is_first_iteration=False, **inputs
        )
        return self.model(**prepared, return_dict=True).logits

    def _cached(self) -> int:
        """How many places of the cache are filled."""
        return 0 if self.cache is None else self.cache.get_seq_length()

    def accept(self, logits: Tensor, drafted: Tensor) -> Tensor:
        """Take tokens up to the first that was not drafted; returns the model's words for those behind, `(B, k)`."""
        first = self.tokens.shape[1]
        taken = 0
        for number in range(logits.shape[1]):
            token = self._take(logits[:, number])
            taken = number + 1
            if not self.live.any() or number == drafted.shape[1]:
                break
            if bool((token != drafted[:, number]).any()):  # of texts that have ended too: the cache outlives this run
                break
        self.inputs = self._longer(taken)
        if self.cache is not None and self.passes > 1:
            self.cache.crop(self.tokens.shape[1] - 1 + self._nameless - self._cached())
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
        from lds_iter.depth.decoding import output as output_classes

        output: Any = output_classes.ParallelGenerateOutput  # transformers annotates its fields as tensors of one kind
        return output(
            sequences=self.tokens,
            scores=tuple(self.scores) or None,
            logits=tuple(self.logits) or None,
            past_key_values=self.cache,
            passes=self.passes,
            evaluated=self.evaluated,
        )


def _check_cache(model: Any, cache: Any) -> None:
    if not getattr(cache, "is_croppable", False):
        raise ValueError(
            f"The cache of {type(model).__name__}, {type(cache).__name__}, cannot roll back to accepted tokens. "
            f"{WAY_ROUND} Of a static or quantized cache: leave `cache_implementation` out."
        )
