"""Layers whose solves are compiled, and models with layers or solves in them that are."""

import copy
import functools
import subprocess
import sys

import pytest
import torch
from watchers import Tracer

import lds_iter as li

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
CLOSE = {"rtol": 1e-8, "atol": 1e-8}  # of gradients; both stop at residuals of 1e-11
EAGER = functools.partial(torch.compile, backend="eager")


def gradients(layer, x, **options):
    output = layer(x, **options)[0]
    data = output.data if isinstance(output, torch.nn.utils.rnn.PackedSequence) else output
    return data.detach(), torch.autograd.grad(data.square().sum(), tuple(layer.parameters()))


def assert_same(ours, plain):
    torch.testing.assert_close(ours, plain, **CLOSE)


@pytest.mark.parametrize(("kind", "method"), [("GRU", li.QuasiNewton()), ("LSTM", li.BlockNewton(2))])
def test_all_layers_and_directions_share_one_graph_whatever_their_weights(kind, method):
    tracer = Tracer()
    module = getattr(torch.nn, kind)(3, 4, num_layers=2, bidirectional=True).double()
    layer = li.nn.parallelize(copy.deepcopy(module), method, compiler=tracer, **TIGHT)
    x, graphs = torch.randn(60, 2, 3, dtype=torch.float64), []
    for _ in range(3):
        assert_same(gradients(layer, x), gradients(module, x))
        graphs.append(tracer.graphs)
        with torch.no_grad():
            for ours, theirs in zip(layer.parameters(), module.parameters(), strict=True):
                ours.mul_(0.9)
                theirs.mul_(0.9)
    assert len(set(graphs)) == 1
    assert graphs[0] <= 3  # the iteration, and the adjoint where no kernel on the CPU solves it


def test_sequences_of_unequal_lengths():
    tracer = Tracer()
    layer = li.nn.GRU(3, 4, method=li.QuasiNewton(), compiler=tracer, **TIGHT).double()
    x = [torch.randn(n, 3, dtype=torch.float64) for n in (50, 31, 7)]
    packed = torch.nn.utils.rnn.pack_sequence(x)
    plain = torch.nn.GRU(3, 4).double()
    plain.load_state_dict(layer.state_dict())
    assert_same(gradients(layer, packed), gradients(plain, packed))
    assert tracer.graphs > 0


class Minimal(torch.nn.Module):
    """A cell of the user's own, `cell(x, state)`."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(7, 4, dtype=torch.float64)

    def forward(self, x, h):
        return torch.tanh(self.linear(torch.cat([x, h], -1)))


def test_a_cell_of_any_kind_is_compiled_once():
    tracer, cell = Tracer(), Minimal()
    fast = li.nn.Recurrent(cell, method=li.Newton(), compiler=tracer, **TIGHT)
    plain = li.nn.Recurrent(cell, method=li.Newton(), **TIGHT)
    state, graphs = torch.zeros(2, 4, dtype=torch.float64), []
    for length in 40, 40, 55, 70:
        x = torch.randn(length, 2, 3, dtype=torch.float64)
        assert_same(gradients(fast, x, state=state), gradients(plain, x, state=state))
        graphs.append(tracer.graphs)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.mul_(0.9)
    assert graphs[1] == graphs[0] <= 2  # the iteration, and the adjoint
    assert graphs[3] == graphs[2] <= 4  # for any T


def test_the_compiler_may_be_changed_and_layers_copied():
    tracer = Tracer()
    layer = li.nn.GRU(3, 4, method=li.Newton(), compiler=tracer)
    x = torch.randn(40, 3)
    with torch.no_grad():
        expected = layer(x)[0]
        assert tracer.graphs == 1
        layer.compiler = None
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-4)  # float32, residuals of 1e-5
        layer.compiler = tracer
        again = copy.deepcopy(layer)
        again(x)
        assert again.compiler.graphs == 2
    for make in (
        lambda: li.nn.GRU(3, 4, compiler=torch.compile),
        lambda: li.nn.Recurrent(Minimal(), method=li.Auto(), compiler=torch.compile),
    ):
        with pytest.raises(ValueError, match=r"needs a `method` such as li\.QuasiNewton\(\)"):
            make()


def weighted(weight, s, u):
    return torch.tanh(s @ weight + u)


def test_code_serves_other_recurrences_that_differ_in_numbers_alone():
    tracer = Tracer()
    u, first = torch.randn(30, 4), None
    for seed in range(3):
        torch.manual_seed(seed)
        weight = 0.3 * torch.randn(4, 4)
        step = functools.partial(weighted, weight)
        fast = li.Compiled(step, tracer if first is None else first.code)
        first = fast if first is None else first
        ours = li.solve(fast, torch.zeros(4), u, li.QuasiNewton()).states
        torch.testing.assert_close(ours, li.sequential(step, torch.zeros(4), u), rtol=1e-4, atol=1e-4)
    assert tracer.graphs == 1


def test_torch_compile_breaks_its_graph_around_layers_and_solves_and_says_why_it_must():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), li.nn.GRU(3, 4, method=li.QuasiNewton()))
    x = torch.randn(300, 2)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x)[0], model(x)[0])

    def solving(u):
        return li.solve(lambda s, u: (0.5 * s + u).tanh(), torch.zeros(2), 2 * u).states + 1

    torch.testing.assert_close(EAGER(solving)(x), solving(x))
    for function in solving, model[1].forward, li.nn.Recurrent(torch.nn.GRUCell(2, 3)):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match=r"looks at its progress.*li\.Compiled\(f\)"):
            EAGER(function, fullgraph=True)(x)


def test_nobody_waits_for_a_compiler_who_does_not_compile():
    code = """
import sys, torch, lds_iter as li
li.nn.GRU(2, 3, method=li.Newton())(torch.randn(300, 2))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
