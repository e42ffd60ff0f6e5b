"""Right by default: counts from the default guess, the error that a tolerance means, and hard problems."""

import pytest
import torch
from odes import (
    CART_POLE,
    LOGISTIC,
    VAN_DER_POL,
    logistic,
    logistic_at,
    lorenz,
    real,
    times,
    van_der_pol,
)
from torchdiffeq import odeint as step_by_step

import lds_iter as li

LAST = {
    "logistic": [0.99959157],
    "van_der_pol": [-0.43932320, -2.54393111],
    "cart_pole": [0.09043667, -1.42649652, 0.01554128, -2.37767144],
}


@pytest.mark.parametrize("problem", [LOGISTIC, VAN_DER_POL, CART_POLE])
def test_last_states_and_iterations(problem):
    func, y0, end = problem
    for steps in (1000, 4000):
        found = li.ode.integrate(func, y0, times(end, steps))
        assert int(found.solution.iterations) <= 3
        torch.testing.assert_close(found.ys[-1], real(*LAST[func.__name__]), rtol=0, atol=5e-8)  # as many digits


@pytest.mark.parametrize(
    ("problem", "constant", "from_constant", "from_s0"),
    [(LOGISTIC, 1, 6, 13), (VAN_DER_POL, 1, 8, 16), (CART_POLE, 0, 8, 23)],
)
def test_a_coarse_guess_saves_iterations(problem, constant, from_constant, from_s0):
    func, y0, end = problem
    step, s0, inputs = li.ode.recurrence(func, y0, times(end, 1000))

    def count(guess):
        return int(li.solve(step, s0, inputs, guess=guess, rtol=0, atol=1e-12).iterations)

    # counts may shift by two where rounding decides about a restart of rows
    assert abs(count(torch.full((1000, *s0.shape), float(constant)).double()) - from_constant) <= 1
    assert abs(count(li.repeat_initial) - from_s0) <= 2
    assert 2 <= count(li.Coarse(10, lambda s, u: step(s, (u[0], 10 * u[1])))) <= 3


@pytest.mark.parametrize("problem", [LOGISTIC, VAN_DER_POL, CART_POLE])
def test_the_jacobian_at_midpoints_takes_no_more_iterations_than_the_exact_one(problem):
    func, y0, end = problem
    t = times(end, 1000)
    found = li.ode.integrate(func, y0, t)
    exact = li.ode.integrate(func, y0, t, approximation=li.Newton())
    assert int(found.solution.iterations) <= int(exact.solution.iterations)
    torch.testing.assert_close(found.ys, exact.ys, rtol=0, atol=1e-10)  # the default tolerance


def test_a_fine_grid_takes_one_iteration_for_its_guess_has_the_error_of_its_steps():
    found = li.ode.integrate(van_der_pol, real(0, 1), times(10.0, 10_000))
    assert int(found.solution.iterations) == 1


@pytest.mark.parametrize("steps", [512, 65_536])
def test_a_tolerance_bounds_the_error_of_the_solution(steps):
    """The residual of one step does not: the same tolerance on it leaves 8e-5 on the fine grid."""
    t = times(10.0, steps)
    ours = li.ode.integrate(logistic, real(0.1), t, rtol=1e-6, atol=1e-6)
    discrete = 1e-8 if steps == 512 else 1e-12  # the error of the steps themselves, order 4
    assert float((ours.ys - logistic_at(t)).abs().max()) < 1e-6 + discrete
    assert float(ours.solution.error_estimate().abs().max()) < 1e-6
    bare = li.solve(*li.ode.recurrence(logistic, real(0.1), t), rtol=1e-6, atol=1e-6)
    wrong = float((bare.states - logistic_at(t)[1:]).abs().max())
    assert wrong > 1e-5 if steps == 65_536 else wrong < 1e-6
    torch.testing.assert_close(float(bare.error_estimate().abs().max()), wrong, rtol=0.05, atol=1e-8)


@pytest.mark.parametrize("steps", [512, 4096])
def test_no_default_is_damped_per_step(steps):
    """Damping that forgets a quarter per step stalls on a fine grid: 169 iterations."""
    t = times(10.0, steps)
    found = li.ode.integrate(van_der_pol, real(0, 1), t)
    assert int(found.solution.iterations) <= 3
    if steps == 512:
        steps = li.ode.recurrence(van_der_pol, real(0, 1), t)
        damped = li.solve(*steps, li.Damped(li.Newton(), 0.25), rtol=1e-6, atol=1e-6)
        assert int(damped.iterations) > 50


@pytest.mark.parametrize("steps", [1000, 100_000])
def test_float32_ends_at_rounding(steps):
    y0 = torch.tensor([0.0, 1.0])
    found = li.ode.integrate(van_der_pol, y0, times(10.0, steps).float())
    assert found.solution.converged
    assert int(found.solution.iterations) <= 4
    fine = li.ode.odeint(van_der_pol, y0.double(), times(10.0, steps))
    # every step rounds times and states to 6e-8, and 1e5 of them add up like their root, amplified by about 3
    torch.testing.assert_close(found.ys.double(), fine, rtol=0, atol=1e-4)


def test_too_large_steps_are_taken_one_after_the_other():
    """The coarse guess of 20 steps overflows: still the numbers of the steps."""
    t = times(10.0, 20)
    expected = step_by_step(van_der_pol, real(0, 1), t, method="rk4")
    torch.testing.assert_close(li.ode.odeint(van_der_pol, real(0, 1), t), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("window", [None, 500])
def test_chaos_is_solved_span_by_span(window):
    """Newton's method on all of [0, 20] takes 723 iterations."""
    t = times(12.0, 2400)
    found = li.ode.integrate(lorenz, real(1, 1, 1), t, window=window)
    assert found.solution.converged
    assert int(found.solution.iterations) <= 80
    expected = step_by_step(lorenz, real(1, 1, 1), t, method="rk4")
    torch.testing.assert_close(found.ys, expected, rtol=0, atol=1e-5)  # rounding grows by e^11 = 6e4


def test_stiff_relaxation_by_the_trapezoid_rule():
    stiff = lambda t, y: torch.stack([y[..., 1], 10 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)  # noqa: E731
    found = li.ode.integrate(stiff, real(2, 0), times(12.0, 2400), method="trapezoid")
    assert found.solution.converged
    fine = li.ode.odeint(stiff, real(2, 0), times(12.0, 9600))
    # order 2 with h = 1/200, over jumps that take 1/10
    torch.testing.assert_close(found.ys[-1], fine[-1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["rk4", "trapezoid"])
def test_batch_elements_do_not_feel_each_other(method):
    torch.manual_seed(0)
    y0, t = 2 * torch.randn(3, 2, dtype=torch.float64), times(10.0, 400)
    together = li.ode.integrate(van_der_pol, y0, t, method=method)
    for i in range(3):
        alone = li.ode.integrate(van_der_pol, y0[i], t, method=method)
        assert int(alone.solution.iterations) == int(together.solution.iterations[i])
        torch.testing.assert_close(together.ys[:, i], alone.ys, rtol=0, atol=0)


def test_one_element_of_a_batch_may_be_chaotic():
    rate = real(0.1, 1).unsqueeze(-1)
    slow = lambda t, y: rate * lorenz(t, y)  # noqa: E731
    found = li.ode.integrate(slow, torch.ones(2, 3).double(), times(10.0, 2000))
    counts = found.solution.iterations
    assert found.solution.converged
    assert int(counts[0]) <= 3 < int(counts[1])


def test_a_solution_that_ends_is_a_failure():
    square = lambda t, y: y**2  # noqa: E731
    with pytest.raises(li.SolveError, match="leaves the range of numbers"):
        li.ode.odeint(square, real(1), times(5.0, 200))
    found = li.ode.integrate(square, real(1, 0.01).unsqueeze(-1), times(5.0, 200), throw=False)
    assert found.solution.result.tolist() == [int(li.Result.NONFINITE), int(li.Result.SUCCESS)]


@pytest.mark.parametrize("method", ["rk4", "implicit_midpoint"])
def test_what_solve_takes_passes_through(method):
    t = times(10.0, 300)
    expected = li.ode.odeint(van_der_pol, real(0, 1), t, method=method)
    seen = []
    found = li.ode.integrate(
        van_der_pol, real(0, 1), t, method=method, guess=expected[1:], window=100,
        approximation=li.BlockNewton(2), callback=lambda progress: seen.append(progress.residual),
    )  # fmt: skip
    assert seen
    torch.testing.assert_close(found.ys, expected, rtol=0, atol=1e-12)
    short = li.ode.integrate(
        van_der_pol, real(0, 1), t, method=method, guess=1 + expected[1:], max_iters=1, throw=False
    )
    assert short.solution.iterations.tolist() == 1
    assert short.solution.result.tolist() == int(li.Result.MAX_ITERS)
