"""`recipes.recurrent_depth`: the trained model, training through the solve, and very deep, narrow networks."""

import json

import pytest
import torch
from torch.nn import functional

import lds_iter as li
from bench.depth import measure as bench
from bench.depth.page import page
from recipes.recurrent_depth.compare import over_depth
from recipes.recurrent_depth.deep_stacks import DeepStack, adjoint, mlp, residual
from recipes.recurrent_depth.layer_parallel import Penalty, losses, side_by_side
from recipes.recurrent_depth.layer_parallel import train as train_stack
from recipes.recurrent_depth.model import WEIGHTS, RecurrentDepth, Shape, load, save
from recipes.recurrent_depth.text import bigram_loss, encode, topics
from recipes.recurrent_depth.train import Pieces, Recipe, Training, held_out_loss, solved, unroll


@torch.no_grad()
def test_the_trained_model_beats_a_bigram_by_far_and_gains_from_depth():
    training, held_out = (encode(text) for text in topics())
    held_out, model = held_out[:4_000], load()
    shallow, deep, deeper = (held_out_loss(model, held_out, depth) for depth in (1, 8, 32))
    assert deep < bigram_loss(training, held_out) - 0.5
    assert deep < shallow
    assert deeper == pytest.approx(deep, abs=0.01)  # at its fixed point, and staying there beyond any trained depth


@torch.no_grad()
def test_the_trained_core_contracts():
    problem = over_depth(load(), encode(topics()[1][:64]), 32)
    assert li.depth.growth_per_layer(problem, problem.sequential()) < 0.8


def test_weights_are_small_and_come_back(tmp_path):
    assert WEIGHTS.stat().st_size < 5_000_000
    model = RecurrentDepth(Shape(width=16, heads=2)).half().float()
    save(model, tmp_path / "weights.safetensors", {})
    tokens = torch.randint(0, 96, (2, 9))
    torch.testing.assert_close(load(tmp_path / "weights.safetensors")(tokens, 3), model(tokens, 3), rtol=0, atol=0)


@pytest.mark.parametrize("method", [li.Jacobi(), li.Damped(li.Picard(), 0.8)])
def test_the_implicit_gradient_is_that_of_backpropagation_at_convergence(method):
    """The trained core over 24 steps, by `li.Implicit` and through the loop; all of the model's parameters."""
    model, text = load().requires_grad_(True), encode(topics()[1][:33])
    tokens, target = text[:-1], text[1:]
    exact = torch.autograd.grad(functional.cross_entropy(model(tokens, 24), target), list(model.parameters()))
    problem = over_depth(model, tokens, 24)
    solution = problem.solve(method, rtol=0, atol=1e-6, adjoint=li.Implicit(li.Jacobi(), rtol=0, atol=1e-6))
    loss = functional.cross_entropy(model.coda(problem.unflatten(solution.states[-1])), target)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()  # float32; both solves stop at 1e-6


def test_truncated_unrolling_reaches_the_last_steps_only():
    model, tokens = RecurrentDepth(Shape(width=16, heads=2)), torch.randint(0, 96, (2, 9))
    states = unroll(model, tokens, 7, 3)
    assert len(states) == 4
    assert not states[0].requires_grad
    assert states[-1].requires_grad
    with torch.no_grad():
        torch.testing.assert_close(model.coda(states[-1]), model(tokens, 7), rtol=0, atol=0)


def test_the_implicit_gradient_of_training_is_that_of_all_steps():
    """An untrained core at its widest: no step is at rest, and each counts in the gradient."""
    model, tokens = RecurrentDepth(Shape(width=16, heads=2)), torch.randint(0, 96, (2, 9))
    parameters = list(model.parameters())
    ours, exact = (way[-1].sin().sum() for way in (solved(model, tokens, 6), unroll(model, tokens, 6, 6)))
    grads = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, exact))
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert (a - b).norm() <= 1e-3 * b.norm()  # solves that stop at 1e-4


def test_one_iteration_of_picard_is_all_layers_side_by_side_and_the_penalty_makes_it_right():
    """Ten steps on a narrow stack: the penalty brings one iteration closer to all layers than training without."""
    text = encode(topics()[1])[:2_000]
    apart = {}
    for weight in 0.0, 3.0:
        model = train_stack(4, 10, Penalty(weight), width=16)
        found = losses(model, text, [1, 4])
        assert found[4] == pytest.approx(found[0], abs=1e-4)  # as many iterations as layers; float32
        apart[weight] = found[1] - found[0]
        h0 = model.embedding(text[:65][None])
        solution = li.depth.loop(list(model.layers), h0).solve(li.Picard(), max_iters=1, throw=False)
        once = side_by_side(model.layers, h0, 1)
        torch.testing.assert_close(solution.states[-1].view_as(once), once, rtol=1e-4, atol=1e-4)  # float32 sums
    assert apart[3.0] < apart[0.0]


@pytest.mark.parametrize("states", [unroll, solved])
@pytest.mark.filterwarnings("ignore")  # Lightning 2.6 uses what torch 2.13 deprecates
def test_training_by_lightning_lowers_the_loss(states):
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    text = encode(topics()[0][:20_000])
    model = RecurrentDepth(Shape(width=16, heads=2))
    recipe = Recipe(steps=30, batch=8, context=32, rate=1e-2, states=states)
    before = held_out_loss(model, text, 4, context=32)
    trainer = pl.Trainer(
        max_steps=30, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Training(model, recipe), DataLoader(Pieces(text, 32, 240, seed=0), batch_size=8))
    assert held_out_loss(model, text, 4, context=32) < before - 0.5


@pytest.mark.parametrize("layer", [mlp(), residual(40)], ids=["mlp", "residual"])
def test_layers_know_their_derivatives(layer):
    s, parameters = torch.randn(40, 2, 6).double(), (torch.randn(40, 6, 6).double(), torch.randn(40, 6).double())
    own, plain = layer.linearize(s, parameters), li.FunctionDerivatives(layer, s, parameters)
    v = torch.randn_like(s)
    for a, b in [
        (own.value, plain.value), (own.jvp(v), plain.jvp(v)), (own.vjp(v), plain.vjp(v)),
        (own.jacobian(), plain.jacobian()), (own.diagonal(), plain.diagonal()),
        (own.block_diagonal(3), plain.block_diagonal(3)),
    ]:  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # float64 rounding


@pytest.mark.parametrize(("kind", "most"), [("MLP", 10), ("ResNet", 5)])
@pytest.mark.parametrize(("width", "depth"), [(16, 256), (16, 1024), (64, 64)])
def test_newton_over_depth_needs_few_iterations_and_one_backward(kind, most, width, depth):
    """Measured 6 to 8 for MLPs and 3 for residual networks, whatever the depth."""
    row = bench.row(kind, width, depth, 0)
    assert max(row["forward"]) <= most
    assert set(row["backward"]) == {1}
    assert row["error"] < 1e-4  # a thousand float32 roundings of states of order 1
    assert row["gradient_error"] < 1e-4


def test_the_adjoint_as_a_solve_is_the_gradient_of_the_input():
    stack, x, g = DeepStack(50, 6, mlp()), torch.randn(3, 6, requires_grad=True), torch.randn(3, 6)
    exact = torch.autograd.grad(stack(x), x, g)[0]
    with torch.no_grad():
        ours = adjoint(stack, stack.solve(x).states, x, g).states[-1]
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))  # states solved to 1e-5


def test_a_residual_network_of_1024_layers_trains_to_the_same_losses():
    parallel, sequential = (bench.train(run, 4, width=8, batch=16) for run in (bench._parallel, bench._sequential))
    assert parallel == pytest.approx(sequential, abs=1e-3)  # rounding, through four steps of Adam
    assert parallel[-1] < parallel[0]


def test_the_page_is_made_of_the_results_alone():
    row = bench.row("MLP", 16, 64, 1)
    facts = {"torch": "2", "python": "3", "cpu": "a", "threads": 1, "rounds": 1, "rows": [row]}
    text = page(json.loads(json.dumps({**facts, "training": {"parallel": [2.0, 1.0], "sequential": [2.0, 1.1]}})))
    assert "| MLP | 16 | 64 |" in text
    assert "1.0e-01" in text
    assert "ours / loop" in text
