"""Gradients: those of torchdiffeq's backpropagation through its steps, in memory of one evaluation."""

import pytest
import torch
from odes import real, times, van_der_pol
from torchdiffeq import odeint as step_by_step
from torchdiffeq import odeint_adjoint as by_adjoint

import lds_iter as li


class Network(torch.nn.Module):
    """dy/dt from state and time; double precision."""

    def __init__(self, width=2):
        super().__init__()
        torch.manual_seed(0)
        layers = torch.nn.Linear(width + 1, 8), torch.nn.Tanh(), torch.nn.Linear(8, width)
        self.layers = torch.nn.Sequential(*layers).double()

    def forward(self, t, y):
        return self.layers(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1))


def gradients(solve, func, y0, t, weights, **how):
    """Those of a weighted sum of all states, with respect to state, times and parameters."""
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    y = solve(func, y0, t, **how)
    return torch.autograd.grad((y * weights).sum(), [y0, t, *func.parameters()])


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4"])
def test_equal_to_backpropagation_through_the_steps(method):
    func, t = Network(), times(2.0, 100)
    y0, weights = torch.randn(3, 2).double(), torch.randn(101, 3, 2).double()
    ours = gradients(li.ode.odeint, func, y0, t, weights, method=method)
    theirs = gradients(step_by_step, func, y0, t, weights, method=method)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)  # sums of 100 terms, rounded


def test_torchdiffeqs_adjoint_is_the_approximate_one():
    """It integrates a second equation backwards: both agree as the steps get smaller, and ours is exact at once."""
    func, y0 = Network(), torch.randn(2).double()
    errors = []
    for steps in (10, 20):
        t, weights = times(2.0, steps), torch.ones(steps + 1, 2).double()
        exact = gradients(step_by_step, func, y0, t, weights, method="midpoint")
        ours = gradients(li.ode.odeint_adjoint, func, y0, t, weights, method="midpoint")
        theirs = gradients(by_adjoint, func, y0, t, weights, method="midpoint")
        for one, other in zip(ours, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)  # rounding
        errors.append(float((theirs[0] - exact[0]).abs().max()))
    assert errors[0] > 1e-5
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("method", ["rk4", "implicit_euler", "implicit_midpoint", "trapezoid", "deer"])
def test_exact_by_finite_differences(method):
    def func(t, y):
        return torch.sin(t + y.flip(-1)) - y**2 / 2

    y0, t = real(0.3, 0.7).requires_grad_(), times(1.0, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda y, t: li.ode.odeint(func, y, t, method=method), (y0, t))


@pytest.mark.parametrize("method", ["implicit_midpoint", "trapezoid", "deer"])
def test_parameters_of_implicit_methods(method):
    """Against a fine grid by rk4: order 2."""
    func, weights = Network(), None
    found = []
    for how, steps in ((method, 40), (method, 80), ("rk4", 80)):
        t, weights = times(2.0, steps), torch.zeros(steps + 1, 2).double()
        weights[-1] = 1
        found.append(gradients(li.ode.odeint, func, real(0.5, 1), t, weights, method=how)[2:])
    for coarse, fine, exact in zip(*found, strict=True):
        off, less = (coarse - exact).abs().max(), (fine - exact).abs().max()
        assert float(less) < 1e-3
        assert 3 < float(off / less) < 5


def test_tuples_and_frozen_grids_carry_gradients():
    func, t = Network(), times(1.0, 4)
    position = torch.randn(2, 2).double().requires_grad_()

    def pair(t, y):
        return y[1], func(t, y[0])

    grid = li.ode.adaptive_grid(pair, (position, position), t)
    y = li.ode.odeint(pair, (position, position), t, grid=grid)
    z = step_by_step(pair, (position, position), grid, method="rk4")
    ours, theirs = (torch.autograd.grad(out[0][-1].sum(), [position, *func.parameters()]) for out in (y, z))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)  # rounding


def test_nothing_is_attached_where_no_gradient_is_wanted():
    func = Network()
    with torch.no_grad():
        assert not li.ode.odeint(func, real(0, 1), times(1.0, 20)).requires_grad
    assert not li.ode.odeint(van_der_pol, real(0, 1), times(1.0, 20)).requires_grad
    assert li.ode.odeint(func, real(0, 1), times(1.0, 20)).requires_grad


def test_second_derivatives_are_refused_and_have_a_way_out():
    y0, t = real(0.3, 0.7).requires_grad_(), times(1.0, 10)
    y = li.ode.odeint(van_der_pol, y0, t)
    with pytest.raises(RuntimeError, match=r"li\.sequential"):
        torch.autograd.grad(y.sum(), y0, create_graph=True)
    states = li.sequential(*li.ode.recurrence(van_der_pol, y0, t))
    (first,) = torch.autograd.grad(states.sum(), y0, create_graph=True)
    assert torch.autograd.grad(first.sum(), y0)[0].abs().sum() > 0


def test_memory_grows_as_that_of_one_evaluation():
    """What autograd keeps is linear in the steps, whatever the iterations."""

    def kept(steps):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            li.ode.odeint(func, y0, times(2.0, steps))
        return total

    func, y0 = Network(), real(0.5, 1)
    assert abs(kept(2000) / kept(1000) - 2) < 0.05  # parameters are kept once


@pytest.mark.parametrize("name", ["adjoint_method", "adjoint_options", "adjoint_params"])
def test_what_the_adjoint_cannot_choose_is_refused(name):
    with pytest.raises(ValueError, match=name):
        li.ode.odeint_adjoint(van_der_pol, real(0, 1), times(1.0, 10), **{name: {}})
