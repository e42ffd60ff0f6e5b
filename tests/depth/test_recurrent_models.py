"""Adapters of recurrent-depth models: `hrm_text`, Huginn and its kin, looped layers."""

import pytest
import torch
from torch import nn

import lds_iter as li
from lds_iter import depth

transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Batched and layer-by-layer evaluation round differently; a few float32 roundings per layer of states of order 1."""


@torch.no_grad()
def test_hrm_text_from_a_folder(tmp_path):
    config = transformers.HrmTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_layers_per_stack=1,
        H_cycles=2, L_cycles=3, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.HrmTextForCausalLM(config).save_pretrained(tmp_path)
    model, ids = depth.load_hrm(str(tmp_path)), torch.randint(3, 60, (2, 7))
    with pytest.raises(ValueError, match="hrm_over_depth"):
        depth.over_depth(model, input_ids=ids)
    problem = depth.hrm_over_depth(model, ids)
    solution = problem.solve(li.QuasiNewton(li.Hutchinson()))
    assert len(solution.states) == 2 * (3 + 1)
    torch.testing.assert_close(problem.finish(solution.states[-1]), model(ids).logits, **ROUNDING)


HUGINN = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class LoopConfig(PretrainedConfig):
    model_type = "loop"
    auto_map = {"AutoConfig": "modeling_loop.LoopConfig", "AutoModelForCausalLM": "modeling_loop.LoopForCausalLM"}

    def __init__(self, vocab_size=40, n_embd=32, mean_recurrence=9, test_time_noise=0, **kwargs):
        self.vocab_size, self.n_embd, self.mean_recurrence = vocab_size, n_embd, mean_recurrence
        self.test_time_noise = test_time_noise
        super().__init__(**kwargs)


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.qkv, self.proj, self.norm = nn.Linear(n, 3 * n), nn.Linear(n, n), nn.RMSNorm(n)

    def forward(self, x, freqs_cis, block_idx, mask=None, past_key_values=None):
        q, k, v = (self.qkv(x) + (9 * freqs_cis[0, :, 0]).sin()).unsqueeze(1).chunk(3, -1)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, block_idx)
        causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        y = nn.functional.scaled_dot_product_attention(q, k, v, causal).squeeze(1)
        return self.norm(x + self.proj(y))


class LoopForCausalLM(PreTrainedModel):
    config_class = LoopConfig
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        n = config.n_embd
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, n), prelude=nn.ModuleList([Block(n)]), adapter=nn.Linear(2 * n, n),
            core_block=nn.ModuleList([Block(n)]), coda=nn.ModuleList([Block(n)]),
        ))
        self.lm_head = nn.Linear(n, config.vocab_size, bias=False)
        self.register_buffer("freqs_cis", torch.linspace(0, 1, 32).view(1, 32, 1, 1))
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer.wte

    def get_output_embeddings(self):
        return self.lm_head

    def rotary(self, x, cache_position):
        return self.freqs_cis[:, : x.shape[1]] if cache_position is None else self.freqs_cis[:, cache_position]

    def embed_inputs(self, input_ids, cache_position=None, past_key_values=None):
        x, index = self.transformer.wte(input_ids), torch.tensor(-1)
        for block in self.transformer.prelude:
            index += 1
            x = block(x, self.rotary(x, cache_position), index, None, past_key_values)
        return x, index

    def initialize_state(self, input_embeds, scale=1.0):
        return torch.randn_like(input_embeds) * scale

    def core_block_forward(self, x, input_embeds, freqs_cis, mask, past_key_values, block_idx, current_step):
        x = self.transformer.adapter(torch.cat([x, input_embeds], dim=-1))
        for block in self.transformer.core_block:
            block_idx += 1
            x = block(x, freqs_cis, block_idx, mask, past_key_values)
        return x, block_idx

    def predict_from_latents(self, x, cache_position=None, past_key_values=None):
        index = torch.tensor(0)
        for block in self.transformer.coda:
            index -= 1
            x = block(x, self.rotary(x, cache_position), index, None, past_key_values)
        return type("Output", (), {"logits": self.lm_head(x)})()

    def forward(self, input_ids, num_steps, state):
        e, index = self.embed_inputs(input_ids)
        for step in range(num_steps):
            state, index = self.core_block_forward(
                state, e, self.freqs_cis[:, : e.shape[1]], None, None, index, step
            )
        return self.predict_from_latents(state)
"""
"""A model with Huginn's interface and its list of tied weights, small enough for a test; loaded as Huginn is."""


@pytest.fixture
def huginn_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling_loop.py").write_text(HUGINN)
    (folder / "config.json").write_text(
        '{"model_type": "loop", "auto_map": {"AutoConfig": "modeling_loop.LoopConfig", '
        '"AutoModelForCausalLM": "modeling_loop.LoopForCausalLM"}, "tie_word_embeddings": true}'
    )
    namespace: dict = {}
    exec(HUGINN, namespace)
    namespace["LoopForCausalLM"]._tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}
    original = namespace["LoopForCausalLM"](namespace["LoopConfig"]())
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.3)  # sharp, so that the text is not one token again and again
    weights = {name: tensor.contiguous() for name, tensor in original.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@torch.no_grad()
def test_a_model_like_huginn_from_a_folder_with_its_own_code(huginn_folder):
    model, ids = depth.load_huginn(str(huginn_folder), trust_remote_code=True), torch.randint(0, 40, (2, 7))
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    problem = depth.huginn_over_depth(model, ids, seed=3)
    with depth.forward_mode():
        solution = problem.solve(li.QuasiNewton(li.Hutchinson()))
    assert len(solution.states) == 9
    start = problem.unflatten(problem.s0)
    torch.testing.assert_close(problem.finish(solution.states[-1]), model(ids, 9, start).logits, **ROUNDING)
    model.config.test_time_noise = 0.1
    with pytest.raises(ValueError, match="test_time_noise"):
        depth.huginn_over_depth(model, ids)


def test_no_code_of_a_hub_runs_unasked(huginn_folder):
    with pytest.raises(ValueError, match=r"Python code of its own.*trust_remote_code=True, revision="):
        depth.load_huginn(str(huginn_folder))
    with pytest.raises(ValueError, match="without `revision` the code of today's newest commit"):
        depth.load_huginn("somebody/a-model", trust_remote_code=True)


@torch.no_grad()
def test_huginn_generates_by_the_four_functions_what_it_says_itself(huginn_folder):
    model = depth.load_huginn(str(huginn_folder), trust_remote_code=True)
    adapted, prompt = depth.Huginn(model, seed=2), torch.tensor([3, 1, 4, 1, 5])
    tokens = prompt
    for _ in range(10):
        start = adapted.start(torch.zeros(1, len(tokens), 32), torch.arange(len(tokens))[None])
        tokens = torch.cat([tokens, model(tokens[None], 6, start).logits[0, -1:].argmax(-1)])
    exact = depth.one_by_one(adapted, prompt, 10, 6)
    assert len(exact.tokens.unique()) > 2
    assert torch.equal(exact.tokens, tokens[5:])
    assert torch.equal(depth.verified(adapted, prompt, 10, 6).tokens, exact.tokens)
    with pytest.raises(ValueError, match=r"takes no mask.*li\.depth\.verified"):
        depth.wavefront(adapted, prompt, 10, 6)
    with pytest.raises(ValueError, match=r"takes no mask.*one by one"):
        depth.verified(adapted, prompt.expand(2, -1), 10, 6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
@torch.no_grad()
def test_looped_layers_say_with_one_loop_what_the_model_says_and_with_many_what_the_loop_says(kind, attention):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        num_hidden_layers=2, initializer_range=0.5, attn_implementation=attention, eos_token_id=None,
    )  # fmt: skip
    model, prompt = getattr(transformers, f"{kind}ForCausalLM")(config).eval(), torch.tensor([3, 1, 4, 1, 5])
    looped = depth.Looped(model)
    expected = model.generate(prompt[None], max_new_tokens=10, do_sample=False)[0, 5:]
    assert torch.equal(depth.one_by_one(looped, prompt, 10, 1).tokens, expected)
    exact = depth.one_by_one(looped, prompt, 10, 4)
    assert torch.equal(depth.verified(looped, prompt, 10, 4).tokens, exact.tokens)
    assert depth.wavefront(looped, prompt, 4, 4, flight=3).rounds <= 16
    with pytest.raises(TypeError, match="RecurrentDepthModel"):
        depth.Looped(nn.Linear(2, 2))


def test_models_that_do_more_than_their_parts_are_refused():
    sizes = {
        "vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3,
    }  # fmt: skip
    granite = transformers.GraniteConfig(**sizes, embedding_multiplier=2.0)
    with pytest.raises(ValueError, match="it scales or caps on the way"):
        depth.Looped(transformers.GraniteForCausalLM(granite).eval())
    mistral = transformers.MistralConfig(**sizes, sliding_window=4)
    with pytest.raises(ValueError, match="attention over a window"):
        depth.Looped(transformers.MistralForCausalLM(mistral).eval())
