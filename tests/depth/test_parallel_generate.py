"""`li.depth.parallel_generate`: what transformers' `generate` says, token for token, in fewer passes."""

import functools
from pathlib import Path

import pytest
import torch

from lds_iter import depth

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "initializer_range": 0.3, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Sharp weights, so that the text is not one token again and again."""
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
GPT2 = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 64, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OPT = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "max_position_embeddings": 128, "init_std": 0.3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
HRM = {
    "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "H_cycles": 2,
    "L_cycles": 2, "num_layers_per_stack": 1, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GEMMA = {"num_hidden_layers": 6, "sliding_window": 8, "initializer_range": 0.6, "tie_word_embeddings": False}
FAMILIES = {
    "GPT2LMHead": ("GPT2Config", GPT2),
    "LlamaForCausalLM": ("LlamaConfig", SIZES),
    "Qwen3ForCausalLM": ("Qwen3Config", GROUPED),
    "MistralForCausalLM": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "Gemma3ForCausalLM": (
        "Gemma3TextConfig",
        {**GROUPED, **GEMMA},
    ),
    "OPTForCausalLM": ("OPTConfig", OPT),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", SIZES),
    "HrmTextForCausalLM": ("HrmTextConfig", HRM),
}


@functools.cache
def model_of(family):
    torch.manual_seed(0)
    kind, options = FAMILIES[family]
    name = "GPT2LMHeadModel" if family == "GPT2LMHead" else family
    return getattr(transformers, name)(getattr(transformers, kind)(**options)).eval()


def prompts(batch, padded=4):
    """Prompts of nine tokens; the first of several is padded on the left."""
    ids = torch.randint(3, 64, (batch, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if batch > 1:
        ids[0, :padded], mask[0, :padded] = 0, 0
    return ids, mask


def both(model, ids, mask, ours=None, **options):
    options = {"attention_mask": mask, "max_new_tokens": 24, "do_sample": False, **options}
    return model.generate(ids, **options), depth.parallel_generate(model, ids, **(ours or {}), **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_family_says_what_generate_says(family, batch):
    """GPT-2 has 40 positions: drafts beyond the 33 tokens that are asked for must not reach over the end."""
    model, (ids, mask) = model_of(family), prompts(batch)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    assert len(expected[:, 9:].unique()) > 4
    for ours in {"ahead": 1}, {"ahead": 6, "draft": depth.Lookup(2)}, {"ahead": 16}:
        assert torch.equal(both(model, ids, mask, ours)[1], expected)


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "MistralForCausalLM"])
@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"eos_token_id": [2, 5, 7, 11, 19, 23, 31, 40, 41, 42]},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 5},
        {"use_cache": False},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_processors_ends_and_no_cache(family, options):
    model, (ids, mask) = model_of(family), prompts(3)
    expected, ours = both(model, ids, mask, {"ahead": 6}, **options)
    assert torch.equal(ours, expected)


class Stop(transformers.StoppingCriteria):
    """Ends a sequence at its first even token beyond 20, and writes down how long the texts were that it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores, **options):
        self.seen.append(input_ids.shape[1])
        return (input_ids[:, -1] > 20) & (input_ids[:, -1] % 2 == 0)


class Stateful(transformers.LogitsProcessor):
    """Forbids the token that it chose in its last call: wrong wherever it is called for tokens not accepted."""

    def __init__(self):
        self.last = None

    def __call__(self, input_ids, scores):
        if self.last is not None:
            scores = scores.scatter(1, self.last, -torch.inf)
        self.last = scores.argmax(-1, keepdim=True)
        return scores


def test_criteria_and_processors_see_accepted_tokens_alone_each_once():
    model, (ids, mask) = model_of("LlamaForCausalLM"), prompts(3)
    outcomes, seen = [], []
    for way in model.generate, functools.partial(depth.parallel_generate, model):
        stop, processor = Stop(), Stateful()
        outcomes.append(
            way(ids, attention_mask=mask, max_new_tokens=24, do_sample=False, stopping_criteria=[stop],
                logits_processor=[processor])
        )  # fmt: skip
        seen.append(stop.seen)
    assert torch.equal(*outcomes)
    assert seen[0] == seen[1]


class Streamer:
    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.tolist())

    def end(self):
        self.ended = True


def test_streamers_outputs_and_counts():
    model, (ids, mask) = model_of("Qwen3ForCausalLM"), prompts(1)
    outputs, streamers = [], []
    for way in model.generate, functools.partial(depth.parallel_generate, model, ahead=5):
        streamers.append(Streamer())
        outputs.append(
            way(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, streamer=streamers[-1],
                return_dict_in_generate=True, output_scores=True, output_logits=True, repetition_penalty=1.2)
        )  # fmt: skip
    assert streamers[0].pieces == streamers[1].pieces
    assert streamers[1].ended
    expected, ours = outputs
    assert torch.equal(ours.sequences, expected.sequences)
    for name in "scores", "logits":
        pairs = zip(getattr(ours, name), getattr(expected, name), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # float32 products of other sizes
    assert ours.passes <= 12
    assert ours.evaluated >= 9 + 11  # the prompt, and all tokens but the last


def test_a_pass_is_one_call_of_the_model_and_a_good_draft_saves_passes():
    model, (ids, mask) = model_of("LlamaForCausalLM"), prompts(2)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    calls = []
    hook = model.register_forward_hook(lambda *args: calls.append(1))

    def right(tokens, said):
        return expected[:, tokens.shape[1] : tokens.shape[1] + said.shape[1]]

    try:
        done = depth.parallel_generate(
            model, ids, attention_mask=mask, max_new_tokens=24, do_sample=False, ahead=8, draft=right,
            return_dict_in_generate=True,
        )  # fmt: skip
    finally:
        hook.remove()
    assert torch.equal(done.sequences, expected)
    assert len(calls) == done.passes == 1 + 3  # the prompt says one token, then 9, 9 and 5


def test_lookup_is_renewed_and_falls_back_to_the_models_own_words():
    tokens = torch.tensor([[7, 1, 2, 3, 8, 9, 1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    said = torch.full((2, 7), 50)
    assert depth.Lookup()(tokens, said).tolist() == [[8, 9, 1, 2, 3, 50, 50], [50] * 7]
    assert torch.equal(depth.Lookup(9)(tokens, said), said)
    with pytest.raises(ValueError, match="`match`"):
        depth.Lookup(0)


def test_a_sample_depends_on_its_seed_and_not_on_the_drafts():
    model, (ids, mask) = model_of("GPT2LMHead"), prompts(3)
    options = {"attention_mask": mask, "max_new_tokens": 16, "do_sample": True, "top_k": 20, "temperature": 0.8}
    one = depth.parallel_generate(model, ids, ahead=1, seed=5, **options)
    for ours in {"ahead": 4}, {"ahead": 9, "draft": depth.Lookup(1)}, {"ahead": 6, "use_cache": False}:
        assert torch.equal(depth.parallel_generate(model, ids, seed=5, **ours, **options), one)
    assert not torch.equal(depth.parallel_generate(model, ids, seed=6, **options), one)
    torch.manual_seed(3)
    drawn = depth.parallel_generate(model, ids, **options)
    torch.manual_seed(3)
    assert torch.equal(depth.parallel_generate(model, ids, **options), drawn)


def test_coupled_noise_samples_from_the_softmax():
    scores = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])
    drawn = torch.stack([(scores + depth.CoupledNoise(seed)(7, scores)).argmax(-1) for seed in range(4000)])
    frequency = torch.bincount(drawn.flatten(), minlength=4) / 4000
    # four standard deviations of a frequency over 4,000 draws are at most 4 * sqrt(0.25 / 4000) = 0.032
    torch.testing.assert_close(frequency, scores.softmax(-1)[0], rtol=0, atol=0.032)


def test_custom_generate_as_a_callable_and_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    model, (ids, mask) = model_of("LlamaForCausalLM"), prompts(2)
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, custom_generate=depth.parallel_decode, ahead=4, **options), expected)
    folder = str(ROOT / "recipes" / "recurrent_depth")
    ours = model.generate(ids, custom_generate=folder, trust_remote_code=True, ahead=4, **options)
    assert torch.equal(ours, expected)


def mamba():
    config = transformers.MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.3, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.MambaForCausalLM(config).eval()


def test_a_cache_that_cannot_roll_back_is_refused_and_the_way_round_works():
    model, (ids, mask) = mamba(), prompts(1)
    with pytest.raises(ValueError, match=r"cannot roll back.*use_cache=False"):
        depth.parallel_generate(model, ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    ours = depth.parallel_generate(
        model, ids, attention_mask=mask, max_new_tokens=12, do_sample=False, use_cache=False, ahead=4
    )
    assert torch.equal(ours, expected)
    with pytest.raises(ValueError, match="leave `cache_implementation` out"):
        depth.parallel_generate(
            model_of("LlamaForCausalLM"), ids, max_new_tokens=4, do_sample=False, cache_implementation="static"
        )


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "MistralForCausalLM"])
def test_a_prompt_of_embeddings_and_a_cache_of_an_older_text(family):
    """The cache then holds more than the tokens at hand stand for."""
    model, (ids, _) = model_of(family), prompts(2)
    e, options = model.get_input_embeddings()(ids), {"max_new_tokens": 12, "do_sample": False}
    for given in (
        {"inputs_embeds": e},
        {"input_ids": ids, "inputs_embeds": e},
        {"input_ids": ids, "prefill_chunk_size": 4},
    ):
        assert torch.equal(
            depth.parallel_generate(model, ahead=5, **given, **options), model.generate(**given, **options)
        )
    outcomes = []
    for way in model.generate, functools.partial(depth.parallel_generate, model, ahead=5):
        cache = transformers.DynamicCache(config=model.config)
        first = way(ids, past_key_values=cache, **options)
        longer = torch.cat([first, ids], dim=1)
        new = longer[:, cache.get_seq_length() :]  # only these, and a mask that says how many there are
        outcomes.append(way(new, attention_mask=torch.ones_like(longer), past_key_values=cache, **options))
    assert torch.equal(*outcomes)


def test_a_model_that_cuts_drafts_away_is_refused():
    """Adapters of learned prompts hand on one token a pass, whatever was drafted."""
    model, (ids, mask) = model_of("LlamaForCausalLM"), prompts(1)
    prepare = model.prepare_inputs_for_generation

    def one_a_pass(*args, **kwargs):
        prepared = prepare(*args, **kwargs)
        if not kwargs.get("is_first_iteration"):
            prepared |= {name: prepared[name][:, -1:] for name in ("input_ids", "position_ids") if name in prepared}
        return prepared

    model.prepare_inputs_for_generation = one_a_pass
    try:
        with pytest.raises(ValueError, match=r"returned logits for 1 of 9 tokens.*use_cache=False"):
            depth.parallel_generate(model, ids, attention_mask=mask, max_new_tokens=12, do_sample=False, ahead=8)
    finally:
        del model.prepare_inputs_for_generation


def test_other_rules_and_what_is_no_model_or_prompt_are_refused():
    model, (ids, _) = model_of("LlamaForCausalLM"), prompts(1)
    for given, error, words in [
        ({"penalty_alpha": 0.6, "top_k": 4}, ValueError, "`penalty_alpha` must be left out"),
        ({"prompt_lookup_num_tokens": 3}, ValueError, r"draft=li\.depth\.Lookup\(\)"),
        ({"assistant_model": model}, ValueError, "draft=FUNCTION"),
        ({"draft": "lookup"}, TypeError, r"`draft` must be a callable, got 'lookup'"),
        ({"ahead": 2.5}, ValueError, "`ahead` must be a whole number"),
        ({"input_ids": ids[0]}, ValueError, r"`input_ids\[None\]`"),
        ({"input_ids": ids.tolist()}, TypeError, r"\*\*encoded"),
        ({"model": ids}, TypeError, "`model` must be a transformers language model"),
    ]:
        with pytest.raises(error, match=words):
            depth.parallel_generate(**{"model": model, "input_ids": ids, "max_new_tokens": 4, **given})


def test_what_cannot_be_is_refused_with_advice():
    model, (ids, mask) = model_of("LlamaForCausalLM"), prompts(1)
    for options, words in [
        ({"ahead": 0}, "`ahead` must be a whole number of at least 1"),
        ({"num_beams": 2}, "`num_beams` must be 1"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "`output_hidden_states`"),
        ({"draft": lambda tokens, said: said.float()}, "`draft` must return tokens"),
    ]:
        with pytest.raises(ValueError, match=words):
            depth.parallel_generate(model, ids, attention_mask=mask, max_new_tokens=4, **options)
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    with pytest.raises(ValueError, match=r"encoder-decoder.*li\.depth\.jacobi_decoding"):
        depth.parallel_generate(transformers.T5ForConditionalGeneration(config).eval(), ids, max_new_tokens=4)
