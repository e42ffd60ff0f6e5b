"""Gradients of the layers where they are used in unusual ways: in place, twice, many at once, recomputed, watched."""

import pytest
import torch
from layers import KINDS, METHODS, pair, storages
from torch.utils.checkpoint import checkpoint

import lds_iter as li

CLOSE = {"rtol": 1e-8, "atol": 1e-9}  # float64; solves stop at residuals of 1e-12


def batch(steps=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, 2, 3, dtype=torch.float64, generator=generator)


def apart(tensors):
    addresses = storages(*tensors)
    return len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_two_gradients_share_memory(kind, method):
    _, layer = pair(kind, method=method, num_layers=2, bidirectional=True)
    layer(batch())[0].square().mean().backward()
    assert apart([parameter.grad for parameter in layer.parameters()])
    assert apart(torch.autograd.grad(layer(batch())[0].square().mean(), list(layer.parameters())))


@pytest.mark.parametrize("cell", [torch.nn.RNNCell, torch.nn.GRUCell, torch.nn.LSTMCell])
def test_no_two_gradients_of_a_recurrent_share_memory(cell):
    layer = li.nn.Recurrent(cell(3, 4, dtype=torch.float64))
    states = layer(batch())[0]
    (states[0] if isinstance(states, tuple) else states).square().mean().backward()
    assert apart([parameter.grad for parameter in layer.parameters()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_final_states_and_records_share_no_memory(kind, method):
    _, layer = pair(kind, method=method)
    for graph in False, True:
        with torch.set_grad_enabled(graph):
            output, final = layer(batch())
            finals = final if isinstance(final, tuple) else (final,)
            assert apart([output, *finals, *(solution.states for solution in layer.last_solution)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_and_clipping_are_those_of_torch(kind, method):
    norms = []
    for layer in pair(kind, method=method):
        for seed in range(3):
            layer(batch(seed=seed))[0].square().mean().backward()
        norms.append(torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.01))
        assert torch.stack([one.grad.norm() for one in layer.parameters()]).norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(*norms, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_may_be_changed_in_place(kind, method):
    found = []
    for layer in pair("GRU" if kind == "LSTM" else kind, method=method):  # torch's own LSTM refuses
        output = layer(batch())[0]
        output.mul_(2)
        found.append(torch.autograd.grad(output.square().sum(), list(layer.parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_changed_before_the_backward_pass_are_refused_in_torchs_words(kind, method):
    _, layer = pair(kind, method=method)
    loss = layer(batch())[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_see_each_gradient_once(kind, method):
    theirs, ours = pair(kind, method=method)
    seen = {}
    for layer in theirs, ours:
        norms = seen[layer] = []
        layer.weight_hh_l0.register_hook(lambda g, norms=norms: norms.append(float(g.norm())))
        for seed in range(2):
            layer(batch(100, seed))[0].square().mean().backward()
    assert seen[ours] == pytest.approx(seen[theirs])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing(kind, method, reentrant):
    found = []
    for layer in pair(kind, method=method, num_layers=2, bidirectional=True):
        x = batch(70).requires_grad_()
        for _ in range(2):  # what is decided at the first forward must not matter to the second
            output = checkpoint(lambda x, layer=layer: layer(x)[0], x, use_reentrant=reentrant)
            output.square().mean().backward()
        found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind, method, steps):
    found = []
    for layer in pair(kind, method=method, bidirectional=True):
        x = batch(steps).requires_grad_()
        h = torch.full((2, 2, 4), 0.3, dtype=torch.float64, requires_grad=True)
        leaves = [x, h, *layer.parameters()]
        output, final = layer(x, (h, h) if kind == "LSTM" else h)
        loss = output.pow(3).sum() + (final[1] if kind == "LSTM" else final).sin().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_do_not_depend_on_the_length_or_on_earlier_calls(kind):
    """A choice of method changed at 65 steps, and from call to call."""
    ours, theirs = pair(kind)
    for steps in (64, 65, 65, 65, 300):
        found = []
        for layer in ours, theirs:
            leaves = list(layer.parameters())
            first = torch.autograd.grad(layer(batch(steps))[0].square().mean(), leaves, create_graph=True)
            found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def test_second_derivatives_through_a_projection():
    found = []
    for layer in pair("LSTM", 3, 4, proj_size=2):
        leaves = [batch(6).requires_grad_(), *layer.parameters()]
        first = torch.autograd.grad(layer(leaves[0])[0].pow(3).sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_cell_of_ones_own_says_what_to_type_for_second_derivatives():
    linear = torch.nn.Linear(7, 4, dtype=torch.float64)
    layer = li.nn.Recurrent(lambda x, h: torch.tanh(linear(torch.cat([x, h], -1))), method=li.Newton())
    states = layer(batch(), torch.zeros(2, 4, dtype=torch.float64))[0]
    with pytest.raises(RuntimeError, match=r"for x_t in x: state = layer\.cell\(x_t, state\)"):
        torch.autograd.grad(states.sum(), linear.weight, create_graph=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_once(kind, method):
    """Both kinds of `vmap` over a backward pass, and a Hessian by one of them."""
    x, v = batch(5), torch.randn(3, 5, 2, 4, dtype=torch.float64)
    functional, found = torch.autograd.functional, []
    for layer in pair(kind, method=method):
        leaf = x.clone().requires_grad_()
        output = layer(leaf)[0]
        found.append(
            [
                functional.jacobian(lambda x, layer=layer: layer(x)[0], x, vectorize=True),
                functional.hessian(lambda x, layer=layer: layer(x)[0].pow(3).sum(), x[:3], vectorize=True),
                torch.func.vmap(lambda g: torch.autograd.grad(output, leaf, g, retain_graph=True)[0])(v),  # noqa: B023
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_functional_call_are_those_of_the_weights_that_were_called_with(kind, method):
    found = []
    for layer in pair(kind, method=method):
        weights = {name: (2 * weight).detach().requires_grad_() for name, weight in layer.named_parameters()}
        output = torch.func.functional_call(layer, weights, (batch(),))[0]
        found.append(torch.autograd.grad(output.square().mean(), list(weights.values())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


class Leaky(torch.nn.Module):
    """A cell of the user's own."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(7, 4, dtype=torch.float64)

    def forward(self, x, h):
        return 0.9 * h + 0.1 * torch.tanh(self.mix(torch.cat([x, h], -1)))


@pytest.mark.parametrize("method", [li.Newton(), li.Jacobi()])
def test_a_cell_that_has_other_weights_by_the_backward_pass_is_refused(method):
    """`functional_call` has put the module's own weights back by then; at 0.33 off it once passed for a gradient."""
    layer = li.nn.Recurrent(Leaky(), method=method)
    weights = {name: (2 * weight).detach().requires_grad_() for name, weight in layer.named_parameters()}
    states = torch.func.functional_call(layer, weights, (batch(), torch.zeros(2, 4, dtype=torch.float64)))[0]
    with pytest.raises(RuntimeError, match="gives other values in the backward pass"):
        torch.autograd.grad(states.square().mean(), list(weights.values()))


def test_a_cell_of_torch_keeps_the_weights_that_it_was_called_with():
    found = []
    cell, rnn = torch.nn.GRUCell(3, 4, dtype=torch.float64), torch.nn.GRU(3, 4, dtype=torch.float64)
    rnn.load_state_dict({f"{name}_l0": weight for name, weight in cell.state_dict().items()})
    for layer in li.nn.Recurrent(cell), rnn:
        weights = {name: (2 * weight).detach().requires_grad_() for name, weight in layer.named_parameters()}
        states = torch.func.functional_call(layer, weights, (batch(),))[0]
        found.append(torch.autograd.grad(states.square().mean(), list(weights.values())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
