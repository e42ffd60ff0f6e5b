"""Layers that are recorded, transformed or turned back: torch's kernel answers, in torch's numbers."""

import copy

import pytest
import torch
from abilities import compiles
from layers import KINDS, METHODS, pair
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import lds_iter as li

T = 210  # beyond every length at which something once changed


class Model(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.rnn = getattr(torch.nn, kind)(4, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(self.first(x))[0]


def models(kind, method=None):
    theirs = Model(kind).eval()
    return theirs, li.nn.parallelize(copy.deepcopy(theirs), method), torch.randn(2, T, 3)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what a trace makes constant, and that it is deprecated
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_tracing_and_exporting(kind, method):
    theirs, ours, x = models(kind, method)
    expected = theirs(x)
    assert torch.equal(torch.jit.trace(ours, x)(x), expected)
    assert torch.equal(torch.export.export(ours, (x,)).module()(x), expected)
    assert torch.equal(make_fx(ours)(x[:, :5])(x[:, :5]), theirs(x[:, :5]))


@compiles
@pytest.mark.filterwarnings("ignore")  # torch's own, that it is deprecated
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_scripting(kind, method):
    theirs, ours, x = models(kind, method)
    assert torch.equal(torch.jit.script(copy.deepcopy(ours))(x), theirs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_fx_holds_a_layer_as_one_node_as_it_does_torchs(kind):
    theirs, ours, x = models(kind)
    graph = torch.fx.symbolic_trace(ours)
    assert [node.op for node in graph.graph.nodes].count("call_module") == 2
    assert type(graph.rnn) is getattr(li.nn, kind)
    torch.testing.assert_close(graph(x), theirs(x), rtol=1e-5, atol=1e-6)  # float32 rounding of another order
    for layer in theirs.rnn, ours.rnn:
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(layer)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_without_numbers(kind, method):
    _, ours, x = models(kind, method)
    assert copy.deepcopy(ours).to("meta")(x.to("meta")).shape == (2, T, 5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert li.nn.parallelize(Model(kind), method)(torch.randn(2, T, 3)).shape == (2, T, 5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["RNN", "GRU"])  # torch's LSTM has no forward-mode derivative on a CPU
def test_transforms_of_torch_func(kind, method):
    found = []
    for layer in pair(kind, method=method):
        x = torch.linspace(-1, 1, 30, dtype=torch.float64).view(5, 2, 3)
        run = lambda x, layer=layer: layer(x)[0]  # noqa: E731
        found.append(
            [
                torch.func.jvp(run, (x,), (torch.ones_like(x),))[1],
                torch.func.grad(lambda x: run(x).square().sum())(x),  # noqa: B023
                torch.func.jacrev(run)(x),
                torch.func.jacfwd(run)(x),
                torch.func.hessian(lambda x: run(x).pow(3).sum())(x),  # noqa: B023
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_recurrent_under_transforms_goes_step_by_step():
    linear = torch.nn.Linear(7, 4, dtype=torch.float64).requires_grad_(False)
    cell = lambda x, h: torch.tanh(linear(torch.cat([x, h], -1)))  # noqa: E731
    layer, h = li.nn.Recurrent(cell, method=li.Newton()), torch.zeros(2, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)

    def by_hand(x):
        states, state = [], h
        for row in x:
            state = cell(row, state)
            states.append(state)
        return torch.stack(states)

    tangent = (torch.ones_like(x),)
    ours, theirs = (torch.func.jvp(run, (x,), tangent)[1] for run in (lambda x: layer(x, h)[0], by_hand))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.jit.trace(lambda x: layer(x, h)[0], x)(x), by_hand(x))


def test_a_counter_of_operations_sees_those_of_torchs_kernel():
    theirs, ours, x = models("GRU")
    counts = []
    for model in theirs, ours:
        with FlopCounterMode(display=False) as counter:
            model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_sequentialize_is_the_inverse_of_parallelize(kind):
    theirs, ours, x = models(kind, li.Newton())
    ours(x)
    layer, parameters = ours.rnn, dict(ours.named_parameters())
    assert li.nn.sequentialize(ours) is ours
    assert ours.rnn is layer
    assert type(layer) is getattr(torch.nn, kind)
    assert all(parameter is parameters[name] for name, parameter in ours.named_parameters())
    assert set(vars(layer)) == set(vars(theirs.rnn))
    assert torch.equal(ours(x), theirs(x))
    assert li.nn.sequentialize(theirs) is theirs  # nothing to do
    assert li.nn.parallelize(ours).rnn.method is None


def test_sequentialize_leaves_subclasses_alone_and_takes_modules_only():
    class Own(li.nn.GRU):
        pass

    assert type(li.nn.sequentialize(Own(2, 3))) is Own
    for function in li.nn.sequentialize, li.nn.parallelize:
        with pytest.raises(TypeError, match=r"`module` must be a module.*Make one first: GRU"):
            function(torch.nn.GRU)
        with pytest.raises(TypeError, match="`module` must be a module, got None"):
            function(None)
