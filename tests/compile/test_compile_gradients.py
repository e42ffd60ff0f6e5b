"""Gradients of compiled solves: one graph for the adjoint, the same numbers, compiled once."""

import functools
import gc
import weakref

import pytest
import torch
from catalogue import METHODS
from problems import problem
from watchers import Synchronisations, Tracer

import lds_iter as li
from lds_iter import _torch

CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64, residuals of 1e-12 there and back, trajectories that contract


class Cell(torch.nn.Module):
    """A network with parameters; inputs that are a pytree with and without gradients."""

    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = torch.nn.Linear(width, width, dtype=torch.float64)

    def forward(self, s, inputs):
        return torch.tanh(self.recurrent(0.5 * s) + inputs["drive"][0] + 0 * inputs["count"].sum())


def arguments(length=25, batch=(2,), seed=0, width=4):
    s0, u = problem(length, batch, width, seed=seed)
    inputs = {"drive": (u.requires_grad_(),), "count": torch.arange(length)}
    return s0.requires_grad_(), inputs, torch.randn(length, *batch, width, dtype=torch.float64)


def gradients(states, weights, *wanted, **options):
    return torch.autograd.grad((states * weights).sum(), wanted, **options)


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


TIGHTER = {"rtol": 1e-12, "atol": 1e-12}


QUICK = {"newton", "quasi", "block", "jacobi", "switch-below"}
"""The others strip what they wrap, and take the same ways; tracing takes seconds each."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_gradients_by_every_method_are_those_of_the_loop_and_compile_once(name):
    cell, tracer = Cell(), Tracer()
    compiled, (s0, inputs, weights) = li.Compiled(cell, tracer), arguments()
    wanted = (s0, inputs["drive"][0], *cell.parameters())
    exact = gradients(li.sequential(cell, s0, inputs), weights, *wanted)
    solution = li.solve(compiled, s0, inputs, METHODS[name], **TIGHTER)
    graphs = tracer.graphs
    assert_close(gradients(solution.states, weights, *wanted), exact)
    assert tracer.graphs - graphs <= 2  # it begins and, unless it was exact, goes on
    graphs = tracer.graphs
    states = li.solve(compiled, s0, inputs, METHODS[name], **TIGHTER).states
    assert_close(gradients(states, 2 * weights, *wanted), [2 * g for g in exact])
    assert tracer.graphs == graphs


def test_newtons_adjoint_is_one_graph_and_equals_backpropagation_through_the_iterations():
    cell, tracer = Cell(), Tracer()
    compiled, (s0, inputs, weights) = li.Compiled(cell, tracer), arguments()
    wanted = (s0, inputs["drive"][0], *cell.parameters())
    states = li.solve(compiled, s0, inputs, li.Newton(), **TIGHTER).states
    assert tracer.graphs == 1
    ours = gradients(states, weights, *wanted)
    assert tracer.graphs == 2
    unrolled = li.solve(cell, s0, inputs, li.Newton(), adjoint=li.Unroll(), **TIGHTER).states
    assert_close(ours, gradients(unrolled, weights, *wanted))


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()], ids=repr)
def test_other_lengths_and_losses_compile_once_more_at_most(method):
    cell, tracer = Cell(), Tracer()
    compiled, graphs = li.Compiled(cell, tracer), []
    for seed, length in enumerate((20, 33, 50, 129, 400)):
        s0, inputs, weights = arguments(length, seed=seed)
        for incoming in weights, torch.ones(()).double().expand_as(weights), torch.zeros_like(weights):
            ours, plain = (
                torch.autograd.grad(
                    li.solve(f, s0, inputs, method, **TIGHTER).states, tuple(cell.parameters()), incoming
                )
                for f in (compiled, cell)
            )
            assert_close(ours, plain)
        graphs.append(tracer.graphs)
    assert len(set(graphs[1:])) == 1
    assert graphs[-1] <= 2 * graphs[0]
    assert graphs[0] == (2 if method == li.Newton() else 3)


def test_a_graph_may_be_walked_twice_and_second_derivatives_are_refused_as_ever():
    cell, (s0, inputs, weights) = Cell(), arguments()
    compiled = li.Compiled(cell, functools.partial(torch.compile, backend="aot_eager"))
    states = li.solve(compiled, s0, inputs, **TIGHTER).states
    first = gradients(states, weights, cell.recurrent.weight, retain_graph=True)
    assert_close(first, gradients(states, weights, cell.recurrent.weight, retain_graph=True))
    with pytest.raises(RuntimeError, match=r"adjoint=li\.Unroll\(\)"):
        gradients(states, weights, cell.recurrent.weight, create_graph=True)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_ones(length):
    cell, (s0, inputs, weights) = Cell(), arguments(length)
    states = li.solve(li.Compiled(cell, Tracer()), s0, inputs, **TIGHTER).states
    assert_close(
        gradients(states, weights, s0, *cell.parameters()),
        gradients(li.sequential(cell, s0, inputs), weights, s0, *cell.parameters()),
    )


def test_a_gradient_that_is_not_finite_stays_so():
    cell, (s0, inputs, _) = Cell(), arguments()
    (li.solve(li.Compiled(cell, Tracer()), s0, inputs).states * torch.inf).sum().backward()
    assert cell.recurrent.weight.grad.isnan().all()


def test_a_window_that_slides_and_a_strategy_are_uncompiled():
    cell, tracer = Cell(), Tracer()
    compiled, (s0, inputs, weights) = li.Compiled(cell, tracer), arguments()
    exact = gradients(li.sequential(cell, s0, inputs), weights, s0)
    for options in {"window": 7}, {"method": li.Auto()}:
        states = li.solve(compiled, s0, inputs, **options, **TIGHTER).states
        assert_close(gradients(states, weights, s0), exact)
    assert tracer.graphs == 0
    states = li.solve(compiled, s0, inputs, record=True, **TIGHTER).states
    assert tracer.graphs == 0
    assert_close(gradients(states, weights, s0), exact)
    assert tracer.graphs == 1  # only the solve was watched


class Direct(Cell):
    """A recurrence that solves its adjoint itself."""

    calls = 0

    def solve_adjoint(self, prev, inputs, g):
        self.calls += 1
        found = [g[-1]]
        for t in range(len(g) - 1, 0, -1):
            rows = {"drive": (inputs["drive"][0][t],), "count": inputs["count"]}
            pull = torch.func.vjp(functools.partial(self.__call__, inputs=rows), prev[t])[1]
            found.append(g[t - 1] + pull(found[-1])[0])
        return torch.stack(found[::-1])


def test_a_recurrence_that_solves_its_adjoint_itself_does():
    cell, tracer = Direct(), Tracer()
    compiled, (s0, inputs, weights) = li.Compiled(cell, tracer), arguments()
    states = li.solve(compiled, s0, inputs, **TIGHTER).states
    graphs = tracer.graphs
    assert_close(gradients(states, weights, s0), gradients(li.sequential(cell, s0, inputs), weights, s0))
    assert cell.calls == 1
    assert tracer.graphs == graphs


def test_the_code_dies_with_its_owner():
    cell = Cell()
    compiled, (s0, inputs, weights) = li.Compiled(cell, Tracer()), arguments()
    gradients(li.solve(compiled, s0, inputs, li.QuasiNewton(), **TIGHTER).states, weights, s0)
    gone = weakref.ref(cell)
    del cell, compiled
    gc.collect()
    assert gone() is None


def test_what_does_not_compile_backwards_is_explained():
    class Reading(Cell):
        def linearize(self, s, inputs):
            return Reader(lambda s, u: Cell.forward(self, s, u), s, inputs)

    class Reader(li.FunctionDerivatives):
        def vjp(self, w):
            return super().vjp(w) if w.abs().max().item() > 0 else w

    s0, inputs, weights = arguments()
    states = li.solve(li.Compiled(Reading(), Tracer()), s0, inputs, li.Jacobi()).states
    with pytest.raises(RuntimeError, match=r"adjoint by Jacobi\(\) did not compile.*compiled\.f"):
        gradients(states, weights, s0)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()], ids=repr)
def test_the_host_reads_nothing_but_one_flag(method, monkeypatch):
    """The bodies as they are, uncompiled, before a host that sees nothing: what a graph does, and what is around it."""
    monkeypatch.setattr(_torch, "on_host", lambda tensor: False)
    monkeypatch.setattr(_torch, "lags", lambda tensor: True)
    calls = []

    def untouched(body, **options):
        assert options == {"fullgraph": True}

        def counted(*tensors):
            calls.append(body.__code__.co_argcount)
            return body(*tensors)

        return counted

    cell, (s0, inputs, weights) = Cell(), arguments()
    states = li.solve(li.Compiled(cell, untouched), s0, inputs, method, **TIGHTER).states
    loss = (states * weights).sum()
    exact = gradients(li.sequential(cell, s0, inputs), weights, *cell.parameters())
    calls.clear()
    with Synchronisations() as seen:
        ours = torch.autograd.grad(loss, tuple(cell.parameters()))
    assert calls[0] == 4  # it begins; then come those that go on, one of them in vain, as the flag is read late
    assert seen.counts == {"_local_scalar_dense": len(calls)}  # and once, whether `f` is still what it was
    assert len(calls) == 2 if method == li.Newton() else len(calls) > 2
    assert_close(ours, exact)


def test_with_the_compiler_itself():
    """Of two columns: the code of an adjoint grows with the width, and compiling four takes twice as long."""
    cell, (s0, inputs, weights) = Cell(2), arguments(width=2)
    states = li.solve(li.Compiled(cell, li.cuda_graphs), s0, inputs, **TIGHTER).states
    assert_close(
        gradients(states, weights, s0, *cell.parameters()),
        gradients(li.sequential(cell, s0, inputs), weights, s0, *cell.parameters()),
    )
