"""The function that is differentiated is the function that was solved, or the backward pass says that it is not."""

import pytest
import torch
from problems import problem

import lds_iter as li

METHODS = [li.Newton(), li.QuasiNewton(), li.Jacobi(), li.TrustRegion(li.Newton())]


def linear(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 4, dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_step_of_an_optimizer_in_between_is_found_out(method, window):
    layer, (s0, u) = linear(), problem(30, (2,))
    states = li.solve(lambda s, u: torch.tanh(layer(s) + u), s0, u, method, window=window).states
    with torch.no_grad():
        layer.weight.mul_(1 + 1e-12)  # a change of any size
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*li\.sequential"):
        states.square().mean().backward()


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_an_attribute_that_changed_in_between_is_found_out(method, window):
    layer, (s0, u) = linear(), problem(30, (2,))

    class Annealed(torch.nn.Module):
        temperature = 1.0

        def forward(self, s, u):
            return torch.tanh(layer(s) / self.temperature + u)

    f = Annealed()
    states = li.solve(f, s0, u, method, window=window).states
    f.temperature = 1.5
    with pytest.raises(RuntimeError, match="other values in the backward pass"):
        states.square().mean().backward()


def test_functional_call_is_found_out_where_it_ends_before_the_backward_pass():
    torch.manual_seed(0)

    class Solving(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, s0, u):
            return li.solve(lambda s, u: torch.tanh(self.layer(s) + u), s0, u).states

    model, (s0, u) = Solving(), problem(30)
    weights = {name: (2 * value).detach().requires_grad_() for name, value in model.named_parameters()}
    states = torch.func.functional_call(model, weights, (s0, u))
    with pytest.raises(RuntimeError, match="other values in the backward pass"):
        torch.autograd.grad(states.sum(), list(weights.values()))


def test_what_did_not_change_is_differentiated_as_the_loop_does():
    layer, (s0, u) = linear(), problem(30, (2,))
    f = lambda s, u: torch.tanh(layer(s) + u)  # noqa: E731
    for adjoint in li.Implicit(), li.Unroll():
        found = torch.autograd.grad(li.solve(f, s0, u, adjoint=adjoint).states.square().sum(), layer.weight)[0]
        wanted = torch.autograd.grad(li.sequential(f, s0, u).square().sum(), layer.weight)[0]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)  # solved to 1e-10


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"rtol": float("inf")}, ValueError, "rtol"),
        ({"rtol": -1}, ValueError, "rtol"),
        ({"atol": float("nan")}, ValueError, "atol"),
        ({"rtol": "x"}, ValueError, "rtol"),
        ({"window": 0}, ValueError, "window"),
        ({"window": -1}, ValueError, "window"),
        ({"window": 2.5}, ValueError, "window"),
        ({"window": True}, ValueError, "window"),
        ({"method": "newton"}, TypeError, "method"),
        ({"method": li.Newton}, TypeError, "method"),
    ],
)
def test_arguments_of_implicit_are_checked_where_it_is_made(arguments, error, named):
    with pytest.raises(error, match=f"`{named}` must be"):
        li.Implicit(**arguments)


LOGISTIC = torch.full((60, 1), 0.0)


def test_unroll_returns_the_states_that_were_solved_for():
    """Chaotic, from a guess far off: the plain replay of updates would overflow."""
    w = torch.tensor(1.0, requires_grad=True)
    f = lambda s, u: w * 3.9 * s * (1 - s)  # noqa: E731
    solution = li.solve(f, torch.full((1,), 0.3), LOGISTIC, adjoint=li.Unroll())
    assert solution.converged
    with torch.no_grad():
        again = f(torch.cat([torch.full((1, 1), 0.3), solution.states[:-1]]), None)
        assert float((again - solution.states).abs().max()) == float(solution.residual)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    "method",
    [li.Picard(), li.Damped(li.Picard(), 0.1), li.TrustRegion(li.Picard()), li.LevenbergMarquardt(1.0)],
    ids=repr,
)
def test_unroll_and_implicit_return_the_same_states(method, window):
    w = torch.tensor(-1.0, requires_grad=True, dtype=torch.float64)
    f, (s0, u) = (lambda s, u: torch.tanh(w * s + u)), problem(50, (), 1)
    plain = li.solve(f, s0, u, method, window=window)
    unrolled = li.solve(f, s0, u, method, window=window, adjoint=li.Unroll())
    torch.testing.assert_close(unrolled.states, plain.states, rtol=1e-8, atol=1e-8)  # both solved to 1e-10
    assert unrolled.states.requires_grad


def test_unroll_reaches_the_guess_and_the_parameters_of_a_method():
    s0, u = problem(12)
    share = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    guess = torch.zeros_like(u, requires_grad=True)

    class Learned(li.TransitionApproximation):
        def transition(self, lin):
            return li.ScaledIdentity(share.expand(len(lin.residual), 1))

    f = lambda s, u: torch.tanh(0.5 * s + u)  # noqa: E731
    solution = li.solve(f, s0, u, Learned(), guess=guess, max_iters=3, throw=False, adjoint=li.Unroll())
    by_share, by_guess = torch.autograd.grad(solution.states.sum(), (share, guess))
    assert by_share != 0
    assert by_guess.abs().sum() > 0


def test_a_sequence_that_failed_is_no_change():
    """The gradient of the other one is right."""
    layer, (s0, u) = linear(), problem(30, (2,))
    u[20, 1] = 99.0

    def f(s, u):
        return torch.where(u > 90, torch.nan, torch.tanh(layer(s) + u))

    s0.requires_grad_()
    states = li.solve(f, s0, u, throw=False).states
    (found,) = torch.autograd.grad(states.sum(), s0)
    (wanted,) = torch.autograd.grad(li.sequential(f, s0, u)[:, 0].sum(), s0)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-9)  # converged to 1e-10
