"""Nothing is created on torch's default device by accident: the data is on the CPU, the default device is `meta`.

A creation call that forgets `device=` makes a tensor without numbers here, and what meets it fails. On an accelerator
the same call makes a tensor on the CPU beside tensors of the device; and for users of
`torch.set_default_device("cuda")` a call that relies on the CPU being the default makes one on the wrong side. Every
operation runs with real kernels, which fake tensors would not allow: a solve looks at its numbers.
"""

import ast
from pathlib import Path

import pytest
import torch
from catalogue import METHODS, tanh_rnn, transitions
from problems import problem

import lds_iter as li


@pytest.fixture
def elsewhere():
    """A call in this context finds `meta` as its default device."""
    return torch.device("meta")


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", METHODS)
def test_methods(name, window, elsewhere):
    f, (s0, u) = tanh_rnn(4), problem(20, (2,))
    with elsewhere:
        solution = li.solve(f, s0, u, METHODS[name], window=window, record=True)
    torch.testing.assert_close(solution.states, li.sequential(f, s0, u), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adjoint", [li.Implicit(), li.Unroll()], ids=["implicit", "unroll"])
def test_gradients(adjoint, elsewhere):
    f, (s0, u) = tanh_rnn(4), problem(20, (2,))
    with elsewhere:
        for method in li.Newton(), li.QuasiNewton(), li.BlockNewton(2), li.Jacobi(), li.LevenbergMarquardt(3.0):
            li.solve(f, s0, u.clone().requires_grad_(), method, adjoint=adjoint).states.sum().backward()


@pytest.mark.parametrize("reverse", [False, True])
def test_scans(reverse, elsewhere):
    for transition in transitions(9, (2,), 4).values():
        with elsewhere:
            li.linear_scan(transition, torch.zeros(9, 2, 4, dtype=torch.float64, device="cpu") + 1, reverse=reverse)


def test_strategies_and_estimates(elsewhere):
    f, (s0, u) = tanh_rnn(4), problem(60, (2,))
    with elsewhere:
        solution = li.solve(f, s0, u, li.Auto())
        assert solution.error_estimate().device.type == "cpu"
        li.finish(li.iterate(li.start(f, s0, u)))
        li.diagnostics.lyapunov(f, s0, u)
        li.diagnostics.report(solution)
        li.testing.check_method(li.Newton(), f, s0, u)
        li.testing.check_derivatives(f, u.sin(), u)


@pytest.mark.parametrize("cls", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("method", [None, li.Newton()], ids=["default", "newton"])
def test_layers(cls, method, elsewhere):
    options = {} if method is None else {"method": method}
    layer = getattr(li.nn, cls)(3, 4, num_layers=2, bidirectional=True, **options)
    x = torch.randn(12, 2, 3, requires_grad=True)
    lengths = torch.tensor([12, 7])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    with elsewhere:
        layer(x)[0].sum().backward()
        layer(packed)
        with torch.no_grad():
            layer(x)
    assert x.grad.isfinite().all()


def test_cells(elsewhere):
    layer = li.nn.Recurrent(torch.nn.GRUCell(3, 4))
    with elsewhere:
        layer(torch.ones(9, 2, 3, device="cpu"))


@pytest.mark.parametrize("method", ["rk4", "euler"])
def test_differential_equations(method, elsewhere):
    y0, times = torch.randn(3, 4, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64)
    with elsewhere:
        found = li.ode.odeint(lambda t, y: -y * (1 + t), y0, times, method=method)
    assert found.isfinite().all()


def test_samplers(elsewhere):
    x0 = torch.zeros(4)
    with elsewhere:
        generator = torch.Generator("cpu").manual_seed(0)
        for sampler in (
            li.mcmc.mala(lambda x: -(x * x).sum() / 2, step_size=0.3),
            li.mcmc.hmc(lambda x: -(x * x).sum() / 2, step_size=0.3, num_steps=4),
        ):
            li.mcmc.sample(sampler, x0, 20, generator=generator)


def test_a_stack_of_layers(elsewhere):
    block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    h0 = torch.randn(2, 3, 4)
    with elsewhere, torch.no_grad():
        li.depth.stack([block, block], h0).solve()
        li.depth.shared(block, h0, 3).solve()


HERE = Path(li.__file__).parents[1]


@pytest.mark.parametrize("folder", ["lds_iter", "recipes", "bench/common"])
def test_every_creation_call_says_its_device(folder):
    """The rule behind it, for what no test here reaches: `device=` stands in every call that makes a tensor anew."""
    calls = {"zeros", "ones", "empty", "full", "arange", "linspace", "logspace", "eye", "tensor", "rand", "randn"}
    calls |= {"randint", "randperm", "tril_indices", "triu_indices", "as_tensor", "asarray"}
    paths = list((HERE / folder).rglob("*.py"))
    forgotten = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr in calls) == ("torch", True)
        and not {"device", None} & {keyword.arg for keyword in node.keywords}
    ]
    assert paths
    assert not forgotten
