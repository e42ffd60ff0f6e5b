"""What a solve returns under any adjoint belongs together, and the gradient is that of the function solved."""

import pytest
import torch
from catalogue import METHODS, loop

import lds_iter as li

S0 = torch.zeros(4, dtype=torch.float64)
U = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("window", [None, 5])
def test_states_of_an_unrolled_solve_are_those_it_reports(name, window):
    """They are those without a gradient: the loop is one, whoever records it."""
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    f = lambda s, u: torch.sin(weight * s) + u  # noqa: E731
    unrolled = li.solve(f, S0, U, METHODS[name], window=window, adjoint=li.Unroll())
    with torch.no_grad():
        plain = li.solve(f, S0, U, METHODS[name], window=window)
    residual = (f(torch.cat([S0[None], unrolled.states[:-1]]), U) - unrolled.states).abs().max()
    assert unrolled.converged
    # f of all rows at once rounds as f of some of them, but for sums in another order
    torch.testing.assert_close(unrolled.residual, residual, rtol=1e-6, atol=1e-13)
    torch.testing.assert_close(unrolled.states, plain.states, rtol=1e-7, atol=1e-7)  # residuals of 1e-10, amplified
    assert unrolled.states.grad_fn is not None


def test_a_chaotic_map_under_unroll_ends_at_finite_states():
    weight = torch.tensor(1.0, requires_grad=True)
    f = lambda s, u: weight * 3.9 * s * (1 - s)  # noqa: E731
    solution = li.solve(f, torch.full((1,), 0.3), torch.zeros(60, 1), adjoint=li.Unroll())
    assert solution.states.isfinite().all()
    prev = torch.cat([torch.full((1, 1), 0.3), solution.states[:-1]])
    torch.testing.assert_close(f(prev, None), solution.states, rtol=2e-5, atol=2e-5)  # the tolerance of float32, twice


def test_a_guess_far_off_under_unroll_ends_at_finite_states():
    weight = torch.tensor(-1.0, requires_grad=True)
    f = lambda s, u: s + weight.abs() * 0.1 * s**3 + u  # noqa: E731
    u = 0.01 * torch.ones(60, 1)
    solution = li.solve(f, torch.zeros(1), u, guess=torch.full((60, 1), 1e20), adjoint=li.Unroll())
    # float32, a residual of 1e-5 a step over 60 steps that grow
    torch.testing.assert_close(solution.states, loop(f, torch.zeros(1), u), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.BlockNewton(2)], ids=repr)
def test_a_clipped_jacobian_of_zeros_under_unroll_has_the_gradient_of_the_loop(method):
    """The norm of a saturated network's Jacobian is exactly 0, by which nothing may be divided."""
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f = lambda s, u: torch.tanh(weight * s) + u  # noqa: E731
    far = torch.full((20, 4), 1e3, dtype=torch.float64)
    given = {"guess": far, "rtol": 1e-12, "atol": 1e-12, "adjoint": li.Unroll()}
    ours = torch.autograd.grad(li.solve(f, S0, U, li.Clipped(method), **given).states.sum(), weight)[0]
    theirs = torch.autograd.grad(li.sequential(f, S0, U).sum(), weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)  # float64, residuals of 1e-12, contracting


@pytest.mark.parametrize("method", [li.TrustRegion(li.Newton()), li.LevenbergMarquardt(1.0)], ids=repr)
def test_a_damped_method_under_unroll_has_the_gradient_of_the_loop(method):
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f = lambda s, u: torch.tanh(weight * s + u)  # noqa: E731
    states = li.solve(f, S0, U, method, rtol=1e-13, atol=1e-13, adjoint=li.Unroll()).states
    (got,) = torch.autograd.grad(states.sum(), weight)
    (want,) = torch.autograd.grad(loop(f, S0, U).sum(), weight)
    # the last iterations carry residuals of 1e-7 and less into the derivative of the transitions
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


WRONG = [
    {"rtol": float("inf")}, {"atol": float("inf")}, {"rtol": float("nan")}, {"rtol": -1.0}, {"rtol": "1e-3"},
    {"rtol": True},
    {"window": 0}, {"window": -1}, {"window": 2.5}, {"window": True}, {"method": "newton"}, {"method": li.Newton},
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_implicit_checks_its_arguments_when_it_is_made(arguments):
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
        li.Implicit(**arguments)


def test_a_parameter_that_changes_before_the_backward_pass_is_found():
    linear = torch.nn.Linear(4, 4, dtype=torch.float64)
    states = li.solve(lambda s, u: torch.tanh(linear(s) + u), S0, U).states
    with torch.no_grad():
        linear.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation between `solve` and the backward pass"):
        torch.autograd.grad(states.sum(), linear.weight)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.Jacobi()], ids=repr)
def test_an_attribute_that_changes_before_the_backward_pass_is_found(method):
    weight, temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), [1.0]
    states = li.solve(lambda s, u: torch.tanh(weight * temperature[0] * s + u), S0, U, method).states
    temperature[0] = 0.5
    with pytest.raises(RuntimeError, match="`f` gives other values in the backward pass than in the solve"):
        torch.autograd.grad(states.sum(), weight)


def test_weights_of_a_functional_call_are_those_of_the_backward_pass_or_it_raises():
    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, u):
            return li.solve(lambda s, u: torch.tanh(0.5 * self.mix(s) + u), S0, u).states

    step = Step()
    other = {name: (2 * value).detach().requires_grad_() for name, value in step.named_parameters()}
    states = torch.func.functional_call(step, other, (U,))
    with pytest.raises(RuntimeError, match="other values in the backward pass"):
        torch.autograd.grad(states.sum(), list(other.values()))
