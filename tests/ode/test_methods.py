"""The methods: torchdiffeq's numbers, orders in the step size, linear problems in one iteration, stiff ones."""

import pytest
import scipy.integrate
import torch
from odes import (
    CART_POLE,
    LOGISTIC,
    VAN_DER_POL,
    logistic,
    logistic_at,
    real,
    robertson,
    times,
    van_der_pol,
)
from torchdiffeq import odeint as step_by_step

import lds_iter as li

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoid": 2,
    "deer": 2,
}
IMPLICIT = ["implicit_euler", "implicit_midpoint", "trapezoid", "deer"]


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("problem", [LOGISTIC, VAN_DER_POL, CART_POLE])
def test_explicit_methods_are_those_of_torchdiffeq(method, problem):
    func, y0, end = problem
    t = times(end, 300)
    # 300 steps round differently: units in the last place of numbers up to 9, amplified by at most 1e2
    torch.testing.assert_close(
        li.ode.odeint(func, y0, t, method=method), step_by_step(func, y0, t, method=method), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("method", ORDERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(method):
    t = [times(4.0, steps) for steps in (40, 80)]
    coarse, fine = ((li.ode.odeint(logistic, real(0.1), x, method=method) - logistic_at(x)).abs().max() for x in t)
    # 40 steps are in the asymptotic range to a tenth of the order
    assert abs(float((coarse / fine).log2()) - ORDERS[method]) < 0.1 * ORDERS[method]


@pytest.mark.parametrize("method", ORDERS)
def test_a_linear_equation_takes_one_iteration(method):
    turn = real(0, 1, -1, 0).view(2, 2)
    found = li.ode.integrate(
        lambda t, y: y @ turn.T, real(1, 0), times(10.0, 200), method=method, guess=torch.ones(200, 2).double()
    )
    assert int(found.solution.iterations) == 1


def test_implicit_euler_of_decay_is_the_power():
    y = li.ode.odeint(lambda t, y: -y, real(1), times(4.0, 400), method="implicit_euler")
    powers = (1 + 0.01) ** -torch.arange(401, dtype=torch.float64)
    torch.testing.assert_close(y[:, 0], powers, rtol=1e-12, atol=0)  # 400 roundings


@pytest.mark.parametrize("h", [0.1, pytest.param(0.01, marks=pytest.mark.slow)])
def test_robertson_by_implicit_euler(h):
    t = torch.arange(round(500 / h) + 1, dtype=torch.float64) * h
    found = li.ode.integrate(robertson, real(1, 0, 0), t, method="implicit_euler")
    assert int(found.solution.iterations) <= 10
    exact = scipy.integrate.solve_ivp(
        lambda t, y: robertson(torch.tensor(t), torch.from_numpy(y)).numpy(), (0, 500), [1, 0, 0], method="Radau",
        rtol=1e-9, atol=1e-12,
    ).y[:, -1]  # fmt: skip
    # order 1: h = 0.1 is 2.5e-4 off at the end, relative to the rarest species
    torch.testing.assert_close(found.ys[-1], torch.from_numpy(exact), rtol=4e-3 * h, atol=0)
    torch.testing.assert_close(found.ys.sum(-1), torch.ones_like(t), rtol=0, atol=1e-12)  # mass, to rounding


@pytest.mark.parametrize("method", IMPLICIT)
def test_an_implicit_step_is_solved_to_rounding(method):
    t = times(10.0, 500)
    found = li.ode.integrate(van_der_pol, real(0, 1), t, method=method)
    rule = li.ode.METHODS[method]
    field = lambda t, y: van_der_pol(t, y)  # noqa: E731
    before, after = found.ys[:-1], found.ys[1:]
    unmet = rule.equation(_Field(field), t[:-1], t.diff(), before, after)
    assert float(unmet.abs().max()) < 1e-14  # numbers of about 3
    assert int(found.solution.iterations) <= 6


class _Field:
    """The field as `equation` takes it, of a function that is batched already."""

    def __init__(self, func):
        self.func = func

    def __call__(self, t, y):
        return self.func(t, y)

    def linearize(self, t, y):
        along = li.FunctionDerivatives(lambda y, t: self.func(t, y), y, t)
        return along.value, along.jacobian()


@pytest.mark.parametrize("method", ["rk4", "deer"])
def test_the_zero_test_of_deer(method):
    """Lim et al.'s own: 10,000 points, to 1e-6 of scipy."""
    torch.manual_seed(0)
    inner, outer = torch.randn(2, 4, 4, dtype=torch.float64) / 2

    def func(t, y):
        return -6 * torch.tanh(torch.relu(y @ inner.T) @ outer.T) - 10 * y**3 + 30 * torch.sin(6 * t) + 3

    y0 = torch.randn(4, dtype=torch.float64)
    t = torch.linspace(0, 1, 10_000, dtype=torch.float64)
    exact = scipy.integrate.solve_ivp(
        lambda t, y: func(torch.tensor(t), torch.from_numpy(y)).numpy(), (0, 1), y0.numpy(), t_eval=t.numpy(),
        rtol=1e-10, atol=1e-10,
    ).y.T  # fmt: skip
    y = li.ode.odeint(func, y0, t, method=method)
    torch.testing.assert_close(y, torch.from_numpy(exact), rtol=1e-6, atol=1e-6)  # the test's own bound


def test_names_that_are_not_known_are_answered():
    y0, t = real(0.1), times(1.0, 10)
    with pytest.raises(ValueError, match="adaptive_grid"):
        li.ode.odeint(logistic, y0, t, method="dopri5")
    with pytest.raises(ValueError, match="Did you mean 'implicit_euler'"):
        li.ode.odeint(logistic, y0, t, method="implicit-euler")
    with pytest.raises(TypeError, match="name such as"):
        li.ode.odeint(logistic, y0, t, method=4)
    with pytest.raises(ValueError, match="explicit method"):
        li.ode.recurrence(logistic, y0, t, "trapezoid")
