"""Functions that refuse forward mode, as fused cells on a GPU and many extensions do, beside plain operations."""

import functools
import itertools

import pytest
import torch
from catalogue import METHODS
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CLOSE, problem
from refusing import REFUSING, Never, WithoutJvp, in_plain_operations, of_function

import lds_iter as li
from lds_iter.testing import check_derivatives

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("name", REFUSING)
@settings(max_examples=8)
@given(length=st.integers(1, 5), batch=st.sampled_from([(), (2,), (2, 1)]), seed=st.integers(0, 5))
def test_every_product_and_part(name, length, batch, seed):
    f, plain = REFUSING[name]
    s, u = (problem(length, batch, seed=seed + i)[1] for i in range(2))
    with torch.no_grad():
        check_derivatives(plain, s, u, li.FunctionDerivatives(f, s, u))


@pytest.mark.parametrize("name", [name for name in REFUSING if name != "once"])
def test_second_derivatives(name):
    f, plain = REFUSING[name]
    s0, u = problem(6, (2,))
    v = torch.randn_like(u)
    found, expected = (li.linearization(f, s0, u.sin(), u).second(v) for f in (f, plain))
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_the_iterations_that_it_makes_with_plain_operations(name, context):
    s0, u = problem(20, (2,))
    with context():
        u = u.clone()
        found, expected = (
            li.solve(f, s0, u, METHODS[name], **TOLERANCE) for f in (of_function(WithoutJvp), in_plain_operations)
        )
        assert torch.equal(found.iterations, expected.iterations)
        torch.testing.assert_close(found.states, expected.states, **CLOSE)


@pytest.mark.parametrize("adjoint", [li.Implicit(), li.Unroll()], ids=["implicit", "unroll"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name, adjoint):
    s0, u = (x.requires_grad_() for x in problem(12, (2,)))

    def gradients(f):
        states = li.solve(f, s0, u, METHODS[name], adjoint=adjoint, **TOLERANCE).states
        return torch.autograd.grad(states.sin().sum(), (s0, u))

    for one, other in zip(gradients(of_function(WithoutJvp)), gradients(in_plain_operations), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(li.Hutchinson())], ids=["newton", "hutchinson"])
def test_every_refusal_with_a_gradient_by_the_adjoint(name, method):
    f, plain = REFUSING[name]
    s0, u = (x.requires_grad_() for x in problem(12, (2,)))
    found = torch.autograd.grad(li.solve(f, s0, u, method, **TOLERANCE).states.sin().sum(), (s0, u))
    expected = torch.autograd.grad(li.sequential(plain, s0, u).sin().sum(), (s0, u))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(li.Hutchinson())], ids=["newton", "hutchinson"])
def test_compiled(name, method):
    compile_of(*REFUSING[name], method)


def test_compiled_fast():
    compile_of(*REFUSING["without-jvp"], li.Newton())


def compile_of(f, plain, method):
    s0, u = (x.requires_grad_() for x in problem(12, (2,)))
    fast = li.Compiled(f, functools.partial(torch.compile, backend="eager"))
    found = li.solve(fast, s0, u, method, **TOLERANCE)
    expected = li.solve(plain, s0, u, method, **TOLERANCE)
    assert torch.equal(found.iterations, expected.iterations)
    assert found.decisions
    for one, other in zip(
        *(torch.autograd.grad(x.states.sin().sum(), (s0, u)) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, **CLOSE)


def calls_of(f, iterations, **options):
    s0, u = problem(40, ())
    calls = []

    def counted(s, u):
        calls.append(len(s))
        return f(s, u)

    li.solve(counted, s0, u, li.Newton(), max_iters=iterations, throw=False, rtol=0, atol=0, **options)
    return len(calls)


def test_forward_mode_is_tried_once_a_solve():
    """Each further iteration evaluates `f` for its value and for its derivatives, and does not try again."""
    counts = [calls_of(of_function(WithoutJvp), k) for k in range(1, 5)]
    assert {after - before for before, after in itertools.pairwise(counts)} == {2}


def test_the_choice_is_seen_and_kept():
    s0, u = problem(20)
    f = li.Autodiff(of_function(WithoutJvp))
    solution = li.solve(f, s0, u, li.Newton())
    (decision,) = solution.decisions
    assert "J in reverse mode" in str(decision)
    assert "vmap" in str(decision)
    assert list(f.refusals.words) == [decision.choice]
    assert not li.solve(in_plain_operations, s0, u, li.Newton()).decisions


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(li.Hutchinson())], ids=["newton", "hutchinson"])
def test_a_function_without_any_derivative_gets_advice(method):
    s0, u = problem(20)
    with pytest.raises(RuntimeError, match="is not implemented") as caught:
        li.solve(of_function(Never), s0, u, method)
    assert any("li.nn.Recurrent" in note and "li.Jacobi()" in note for note in caught.value.__notes__)
    assert li.solve(of_function(Never), s0, u, li.Jacobi()).converged


def test_a_function_that_leaves_torch_is_not_taken_for_one_that_refuses():
    s0, u = problem(20)
    with pytest.raises(RuntimeError, match="storage"):
        li.solve(lambda s, u: torch.from_numpy(s.detach().numpy()).tanh() + 0.1 * s + u, s0, u, li.Newton())


def test_auto_and_the_loop_by_hand():
    s0, u = problem(20)
    f, expected = of_function(WithoutJvp), li.sequential(in_plain_operations, s0, u)
    torch.testing.assert_close(li.solve(f, s0, u, li.Auto(), **TOLERANCE).states, expected, **CLOSE)
    state = li.start(f, s0, u, **TOLERANCE)
    while not state.ended:
        state = li.iterate(state)
    torch.testing.assert_close(li.finish(state).states, expected, **CLOSE)


def test_front_ends():
    y0, times = torch.randn(4, dtype=torch.float64), torch.linspace(0, 1, 9, dtype=torch.float64)
    found, expected = (
        li.ode.odeint(lambda t, y, f=f: f(y, torch.zeros_like(y)), y0, times)
        for f in (of_function(WithVmap), in_plain_operations)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class WithVmap(WithoutJvp):
    """A front end calls its user's function under `vmap`; forward mode is still refused."""

    generate_vmap_rule = True
