"""Compiled iterations: one graph per method, the same answer, compiled once and released."""

import functools
import gc
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, STRUCTURES, RotationScale, elementwise, tanh_rnn, transitions
from problems import problem
from watchers import Tracer

import lds_iter as li
from bench.common.pages import between
from bench.compile import measure as bench
from bench.compile import page as pages_of
from bench.compile.__main__ import PAGE
from lds_iter.compile.compiled import copied
from lds_iter.linear import registry
from lds_iter.methods.low_precision import Lowered

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}  # both stop at residuals of 1e-10, and a compiler may order sums differently

QUICK = {
    *("newton", "quasi", "quasi-hutchinson", "block", "picard", "jacobi", "damped-newton", "trust-newton"),
    *("jacobi-then-newton", "chord-newton", "switch-below"),
}
"""The others take the same ways through the loop; tracing takes seconds each."""


def assert_same(compiled, plain):
    for field in "result", "iterations", "evaluations", "resets":
        assert torch.equal(getattr(compiled, field), getattr(plain, field)), field
    torch.testing.assert_close(compiled.states, plain.states, **ROUNDING)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_is_one_graph_with_the_same_answer(name):
    f, (s0, u) = tanh_rnn(4), problem(30, (3,))
    tracer = Tracer()
    compiled = li.Compiled(f, tracer)
    plain = li.solve(f, s0, u, METHODS[name], **TIGHT)
    assert_same(li.solve(compiled, s0, u, METHODS[name], **TIGHT), plain)
    graphs = tracer.graphs
    several = {
        "jacobi-then-newton": 3,
        "picard-then-quasi": 3,
        "block-then-newton": 3,
        "chord-newton": 5,
    }  # enters, too
    several |= {"chord-then": 7, "switch-stalled": 5}  # a chord begins, keeps and renews, here two structures
    assert graphs <= several.get(name, 1)
    assert_same(li.solve(compiled, s0, u, METHODS[name], **TIGHT), plain)
    assert tracer.graphs == graphs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_lengths_compile_once_more_at_most(dtype):
    f = tanh_rnn(4, dtype=dtype)
    tracer = Tracer()
    compiled = li.Compiled(f, tracer)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for seed, length in enumerate((20, 33, 50, 129, 400)):
        s0, u = (x.to(dtype) for x in problem(length, (2,), seed=seed))
        solution = li.solve(compiled, s0, u, li.QuasiNewton(), rtol=tolerance, atol=tolerance)
        expected = li.sequential(f, s0, u)
        # The recurrence contracts by 0.9 at worst, so a residual r leaves an error of at most 10 r.
        torch.testing.assert_close(solution.states, expected, rtol=0, atol=20 * tolerance)
    assert tracer.graphs <= 2


def test_a_body_serves_all_methods_that_are_equal_and_dies_with_its_owner():
    def f(s, u):
        return elementwise(s, u)

    tracer = Tracer()
    compiled, (s0, u) = li.Compiled(f, tracer), problem(20)
    for method in li.Jacobi(), li.Jacobi(), li.Damped(li.Picard(), 0.5), li.Damped(li.Picard(), 0.5):
        li.solve(compiled, s0, u, method)
    assert tracer.graphs == 2
    gone = weakref.ref(f)
    del f, compiled
    gc.collect()
    assert gone() is None


def test_results_codes_and_limits_are_those_of_the_plain_loop():
    s0, u = problem(30, (3,))
    u[12:, 2] = 300.0
    rate = torch.tensor([0.1, 0.8, 0.5], dtype=torch.float64)[:, None]

    def f(s, u):
        return torch.where(u == 300.0, torch.inf, rate * torch.sin(s) + u)

    compiled = li.Compiled(f, Tracer())
    for limit in 3, 20:
        options = {"throw": False, "max_iters": limit}
        ours = li.solve(compiled, s0, u, li.Jacobi(), **options)
        plain = li.solve(f, s0, u, li.Jacobi(), **options)
        for field in "result", "iterations", "evaluations", "residual", "states":
            assert torch.equal(getattr(ours, field).nan_to_num(-1), getattr(plain, field).nan_to_num(-1)), field
    assert li.Result.NONFINITE in ours.result


class Cell(torch.nn.Module):
    """A module with inputs that are a pytree, and a state in a closure."""

    def __init__(self):
        super().__init__()
        self.recurrent = torch.nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, s, inputs):
        return torch.tanh(self.recurrent(0.5 * s) + inputs["drive"][0] + inputs["gate"])


def test_a_module_in_training_is_compiled_once_and_its_gradients_are_exact():
    cell, tracer = Cell(), Tracer()
    compiled = li.Compiled(cell, tracer)
    s0, u = problem(25, (2,))
    inputs = {"drive": (u,), "gate": u[..., :1]}
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.1)
    for _ in range(3):
        ours, plain = (
            torch.autograd.grad(
                li.solve(f, s0, inputs, li.Newton(), **TIGHT).states.square().sum(), tuple(cell.parameters())
            )
            for f in (compiled, cell)
        )
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)  # of states that differ by 1e-10
        for parameter, gradient in zip(cell.parameters(), ours, strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert tracer.graphs == 2  # the iteration, and the adjoint


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_recurrences_with_derivatives_of_their_own(kind):
    module = getattr(torch.nn, kind)(3, 4).double().requires_grad_(False)
    f = getattr(li.nn, f"{kind}Recurrence").from_module(module)
    x = torch.randn(25, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        u = f.inputs(x)
        s0 = torch.zeros(2, 8 if kind == "LSTM" else 4, dtype=torch.float64)
        method = li.BlockNewton(2) if kind == "LSTM" else li.QuasiNewton()
        compiled = li.Compiled(f, Tracer())
        assert_same(li.solve(compiled, s0, u, method, **TIGHT), li.solve(f, s0, u, method, **TIGHT))


def test_who_watches_runs_uncompiled():
    tracer = Tracer()
    compiled, (s0, u) = li.Compiled(elementwise, tracer), problem(20)
    plain = li.solve(elementwise, s0, u, li.Jacobi())
    seen = []
    for options in (
        {"record": True},
        {"callback": seen.append},
        {"stop": lambda progress: progress.residual < 0},
        {"window": 7},
    ):
        torch.testing.assert_close(li.solve(compiled, s0, u, li.Jacobi(), **options).states, plain.states)
    assert tracer.graphs == 0
    assert len(seen) == int(plain.iterations) + 1


@dataclass(frozen=True)
class Peeking(li.TransitionApproximation):
    """A method that looks at numbers."""

    def transition(self, lin):
        return li.Picard().transition(lin) if lin.residual.max().item() > 1 else li.Jacobi().transition(lin)


@dataclass
class Unhashable(li.TransitionApproximation):
    """A method that is equal to others and can change."""

    def transition(self, lin):
        return li.Zero()


def test_errors_teach():
    s0, u = problem(20)
    with pytest.raises(RuntimeError, match=r"iteration of Peeking\(\) did not compile.*torch\.where.*compiled\.f"):
        li.solve(li.Compiled(elementwise, Tracer()), s0, u, Peeking())
    with pytest.raises(RuntimeError, match=r"iteration of Noise\(\) did not compile"):
        li.solve(li.Compiled(elementwise, Tracer()), s0, u, ADVERSARIES["noise"])
    with pytest.raises(TypeError, match=r"hashable.*frozen=True"):
        li.solve(li.Compiled(elementwise, Tracer()), s0, u, Unhashable())
    with pytest.raises(TypeError, match="not compiled yet"):
        li.Compiled(li.Compiled(elementwise))
    with pytest.raises(TypeError, match=r"functools\.partial"):
        li.Compiled(elementwise, "inductor")


def operators():
    return {
        name: transition
        for name, transition in transitions(6, (2,), 4, generator=torch.Generator().manual_seed(1)).items()
        if name in ("dense", "block", "diagonal", "scaled")
    }


OPERATORS = {"dense": "dense", "block": "block_diagonal", "diagonal": "diagonal", "scaled": "scaled_identity"}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("started", [False, True])
def test_the_operators_obey_the_rules_of_operators(name, started):
    (leaf,) = li.linear.leaves(operators()[name])
    b, initial = torch.randn(6, 2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    tensors = [x.requires_grad_() for x in (leaf, b, *([initial] if started else []))]
    operator = getattr(torch.ops.lds_iter, f"scan_{OPERATORS[name]}")
    torch.library.opcheck(operator.default, (leaf, b, initial if started else None))
    scan = lambda leaf, b, initial=None: operator(leaf, b, initial)  # noqa: E731
    assert torch.autograd.gradcheck(scan, tensors)
    assert torch.autograd.gradgradcheck(scan, tensors)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_compiled_scan_is_the_scan(name):
    transition = transitions(9, (2,), 4, generator=torch.Generator().manual_seed(1))[name]
    b, initial = torch.randn(9, 2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    torch._dynamo.reset()  # all structures share the code of `linear_scan`, and so its limit of recompilations
    with torch.no_grad():
        for reverse in False, True:
            scan = functools.partial(li.linear_scan, reverse=reverse)
            traced = torch.compile(scan, backend="eager", fullgraph=True)
            torch.testing.assert_close(traced(transition, b, initial), scan(transition, b, initial))


def test_a_scan_registered_later_serves_compiled_code(monkeypatch):
    calls = []

    def counted(transition, x, initial=None):
        calls.append(len(x))
        li.reference_scan(transition, x, initial)

    monkeypatch.setitem(registry._KERNELS, (li.Diagonal, "cpu"), registry.ScanKernel(counted))
    s0, u = problem(20)
    solution = li.solve(li.Compiled(elementwise, Tracer()), s0, u, li.QuasiNewton(), **TIGHT)
    assert calls == [20] * (int(solution.iterations) + 1)  # one an evaluation: a graph does not look whether it is done


@dataclass(frozen=True)
class Spinning(li.TransitionApproximation):
    """A structure of the user's own, traced through."""

    def transition(self, lin):
        diagonal = lin.diagonal()
        return RotationScale(diagonal[..., ::2], torch.zeros_like(diagonal[..., ::2]))


def test_a_structure_of_the_users_own_is_traced_through():
    f, (s0, u) = tanh_rnn(4), problem(20, (2,))
    compiled = li.Compiled(f, Tracer())
    assert_same(li.solve(compiled, s0, u, Spinning(), **TIGHT), li.solve(f, s0, u, Spinning(), **TIGHT))


def test_graphs_are_small():
    tracer, (s0, u) = Tracer(), problem(500)
    li.solve(li.Compiled(elementwise, tracer), s0, u, li.QuasiNewton())
    assert tracer.nodes < 300  # 160 or so; a scan that is traced through adds 20 for each of 9 levels


def test_the_bench_writes_into_its_page():
    row = bench.Row("a cell", "Newton()", bench.FORWARD, 10_000, 8, 3, 1e-6, 9.0, 30.0, 10.0, 9)
    section = pages_of.table([row], {"cpu": "a processor", "threads": 1, "torch": "2"})
    assert "| a cell | forward | 10,000 | 8 | 3 | 30.0 | 10.0 | 3.0 | 9 | 1e-06 |" in section
    page = (Path(__file__).parents[2] / PAGE).read_text()
    assert section in between(page, pages_of.COMMAND, section)


@pytest.mark.parametrize("compiler", [torch.compile, li.cuda_graphs])
def test_with_the_compiler_itself(compiler):
    f, (s0, u) = tanh_rnn(2), problem(20, width=2)
    compiled = li.Compiled(f, compiler)
    assert_same(li.solve(compiled, s0, u, li.QuasiNewton(), **TIGHT), li.solve(f, s0, u, li.QuasiNewton(), **TIGHT))


def test_what_a_graph_returns_is_copied_out_of_its_memory():
    x = torch.ones(2)
    trust, (kept, number) = copied((li.Trust(x, x + 1, x, x, x > 0), [Lowered(li.Diagonal(x)), 3]))
    x += 1
    assert number == 3
    for tensor in trust.k, trust.idle, kept.inner.diagonal:
        assert tensor.tolist() == [1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiler", [torch.compile, li.cuda_graphs])
def test_with_the_compiler_itself_on_a_gpu(compiler):
    f, (s0, u) = tanh_rnn(2), problem(20, (3,), width=2)
    weight = f.__closure__[0].cell_contents.cuda()
    compiled = li.Compiled(lambda s, u: torch.tanh(s @ weight.T + u), compiler)
    for seed in range(3):
        s0, u = problem(20, (3,), width=2, seed=seed)
        ours = li.solve(compiled, s0.cuda(), u.cuda(), li.QuasiNewton(), **TIGHT)
        torch.testing.assert_close(ours.states.cpu(), li.solve(f, s0, u, **TIGHT).states, **ROUNDING)


@pytest.mark.slow
@pytest.mark.skipif(not li.kernels.cpu.status()["scan"].endswith(".so"), reason="no C++ compiler, or turned off")
def test_random_signs_of_any_seed_and_length_compile():
    """Their constants fill 64 bits; a compiler that folds them into sizes would leave these."""
    f = li.Compiled(elementwise)
    for length in 9, 20:
        for seed in 0, 5:
            s0, u = torch.zeros(3, dtype=torch.float64), torch.randn(length, 3, dtype=torch.float64)
            method = li.QuasiNewton(li.Hutchinson(2, seed=seed))
            plain = li.solve(elementwise, s0, u, method, **TIGHT)
            assert_same(li.solve(f, s0, u, method, **TIGHT), plain)
