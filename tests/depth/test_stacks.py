"""`li.depth`: stacks as recurrences, their dtypes and gradients, methods and measures."""

import pytest
import torch
from torch import nn

import lds_iter as li
from lds_iter import depth

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
    "method", [li.Jacobi(), li.Picard(), li.QuasiNewton(li.Hutchinson()), li.QuasiNewton(depth.BlockTrace(8))]
)
@torch.no_grad()
def test_a_stack_of_layers_is_solved_to_what_the_layers_compute(wrap, method):
    layers, h0 = encoder(4), torch.randn(2, 5, 8)
    with depth.forward_mode():
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
            seen.append(depth.BlockTrace(3)(lin))
            return li.Diagonal(seen[-1])

    problem.solve(Spy())
    torch.testing.assert_close(seen[0], scales.expand_as(seen[0]))
    with pytest.raises(ValueError, match="must divide D = 6"):
        problem.solve(li.QuasiNewton(depth.BlockTrace(4)))


@torch.no_grad()
def test_growth_is_that_of_a_linear_stack():
    """Of `h -> 0.8 rotation h`, every change shrinks by 0.8 a layer."""
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    problem = depth.shared(lambda h: 0.8 * h @ rotation, torch.randn(1, 6), 12, dims=1)
    assert depth.growth_per_layer(problem, problem.sequential()) == pytest.approx(0.8, rel=1e-4)


@torch.no_grad()
def test_error_map_counts_iterations():
    problem = depth.shared(Affine(), torch.randn(2, 6), 24, dims=1)
    exact = problem.sequential()
    jacobi, newton = (depth.error_map(problem, method, exact) for method in (li.Jacobi(), li.Newton()))
    assert jacobi.errors.shape[1] == 24
    assert newton.to_last < jacobi.to_last < 24
    assert jacobi.errors[jacobi.to_last, -1] <= 1e-3 < jacobi.errors[jacobi.to_last - 1, -1]


def test_layers_that_run_differently_are_refused_though_their_parameters_look_alike():
    heads = [nn.TransformerEncoderLayer(16, h, 32, dropout=0.0, batch_first=True).eval() for h in (2, 4)]
    norms = [nn.TransformerEncoderLayer(16, 2, 32, 0.0, norm_first=n, batch_first=True).eval() for n in (True, False)]
    activations = [nn.TransformerEncoderLayer(16, 2, 32, 0.0, a, batch_first=True).eval() for a in ("relu", "gelu")]
    for layers in heads, norms, activations:
        with pytest.raises(ValueError, match=r"layer 1 .* configured differently .* `loop\(layers, h0\)`"):
            depth.stack(layers, torch.randn(2, 5, 16))


def test_layers_that_are_random_are_refused():
    with pytest.raises((ValueError, RuntimeError), match=r"layer\.eval\(\)|random"):
        depth.stack([nn.Sequential(Affine(), nn.Dropout(0.5)) for _ in range(2)], torch.randn(3, 6), dims=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_layers_of_every_dtype_run_in_their_own_and_states_at_least_in_float32(dtype):
    layers, h0 = [Affine().to(dtype) for _ in range(4)], torch.randn(3, 6).to(dtype)
    expected = one_by_one(layers, h0)
    for problem in depth.loop(layers, h0, dims=1), depth.stack(layers, h0, dims=1):
        solution = problem.solve()
        assert solution.states.dtype == problem.sequential().dtype == torch.promote_types(dtype, torch.float32)
        # two units of rounding of the layers' dtype: vmap adds products up in another order
        close = {"rtol": 0, "atol": 2 * torch.finfo(dtype).eps}
        torch.testing.assert_close(solution.states.to(dtype), expected, **close)


def test_the_default_method_needs_no_derivatives_and_jacobians_that_do_not_fit_are_refused_with_a_figure():
    wide = depth.shared(lambda h: 0.5 * h, torch.ones(1, 1000, 1000), 4)
    assert wide.solve(rtol=0, atol=1e-3).converged
    with pytest.raises(MemoryError, match=r"D = 1000000 numbers take 3,725 GiB.*li\.Jacobi"):
        wide.solve(li.Newton())


def test_attention_without_forward_mode_is_differentiated_in_reverse_mode():
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train() for _ in range(4)]
    problem = depth.loop(layers, torch.randn(2, 5, 8))
    with torch.no_grad():
        solution = problem.solve(li.QuasiNewton(li.Hutchinson()))
        assert solution.converged
        # float32, layer norms of outputs of size 1, in a batch and one by one
        torch.testing.assert_close(solution.states, problem.sequential(), rtol=0, atol=1e-5)


def test_a_bare_stack_has_no_head():
    with pytest.raises(ValueError, match="unflatten"):
        depth.shared(Affine(), torch.zeros(2, 6), 3, dims=1).finish(torch.zeros(2, 6))


def test_blocks_that_scale_by_their_depth_are_found_at_fresh_weights():
    """Freshly initialised attention averages all tokens, whatever its scale: these differ by 1e-5 there."""
    transformers = pytest.importorskip("transformers")
    config = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
    for scaled in False, True:
        options = {**config, "scale_attn_by_inverse_layer_idx": scaled, "attn_implementation": "eager"}
        layers = list(transformers.GPT2Model(transformers.GPT2Config(**options)).eval().h)
        if scaled:
            with pytest.raises(ValueError, match=r"a scale that depends on the depth"):
                depth.stack(layers, torch.randn(2, 5, 32))
        else:
            assert len(depth.stack(layers, torch.randn(2, 5, 32)).sequential()) == 3


def test_blocks_and_numbers_that_cannot_be_are_refused():
    h0, linear = torch.randn(2, 5, 8), nn.Linear(8, 8)
    for make, error, words in [
        (lambda: depth.shared(linear, h0, 2.5), ValueError, "`depth` must be a whole number of at least 1, got 2.5"),
        (lambda: depth.shared(linear, h0[0, 0], 3), ValueError, "dims=1"),
        (lambda: depth.injected(lambda h, e: h + e, h0, h0[0], 3), ValueError, r"`e` must lead with the batch"),
        (lambda: depth.shared(lambda h: (h, None), h0, 3).solve(), TypeError, r"`lambda h: block\(h\)\[0\]`"),
        (lambda: depth.shared(nn.Linear(8, 4), h0, 3).solve(), ValueError, r"must keep the shape \(2, 5, 8\)"),
    ]:
        with pytest.raises(error, match=words):
            make()
