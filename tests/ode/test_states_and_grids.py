"""Shapes of states, what is batch, and grids of times: as torchdiffeq has them."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from odes import logistic, logistic_at, real, times, van_der_pol
from torchdiffeq import odeint as step_by_step

import lds_iter as li


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (1, 4), (5, 1)])
def test_states_of_any_shape(shape):
    torch.manual_seed(0)
    y0, t = torch.rand(shape, dtype=torch.float64), times(2.0, 30)
    y = li.ode.odeint(logistic, y0, t)
    assert y.shape == (31, *shape)
    assert torch.equal(y[0], y0)
    # as far as the default tolerance goes
    torch.testing.assert_close(y, step_by_step(logistic, y0, t, method="rk4"), rtol=0, atol=1e-10)


def test_tuples_of_states():
    def oscillator(t, y):
        position, velocity = y
        return velocity, -position * (1 + t)

    y0, t = (torch.ones(4, 2).double(), torch.zeros(4, 2).double()), times(3.0, 60)
    ours, theirs = li.ode.odeint(oscillator, y0, t), step_by_step(oscillator, y0, t, method="rk4")
    assert isinstance(ours, tuple)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)  # rounding


def test_tuples_of_unlike_shapes():
    def growing(t, y):
        """A state and the log-density along it, as continuous normalizing flows have them."""
        state, log = y
        return torch.sin(state), -torch.cos(state).sum(-1) + 0 * log

    y0, t = (torch.rand(4, 2).double(), torch.zeros(4).double()), times(1.0, 40)
    for ours, theirs in zip(li.ode.odeint(growing, y0, t), step_by_step(growing, y0, t, method="rk4"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)  # ours is solved to 1e-10


@pytest.mark.parametrize(
    ("func", "shape", "batch"),
    [
        (lambda t, y: -y, (3, 2), (3,)),
        (lambda t, y: y - y.mean(0), (3, 2), ()),  # elements that attract each other
        (lambda t, y: y - y.mean(-2, keepdim=True), (5, 3, 2), (5,)),
        (lambda t, y: y.roll(1, -1), (5, 3), (5,)),
        (lambda t, y: y.roll(1, 0), (5, 3), ()),
    ],
)
def test_what_is_batch_is_found_out(func, shape, batch):
    torch.manual_seed(0)
    y0, t = torch.randn(shape, dtype=torch.float64), times(1.0, 50)
    found = li.ode.integrate(func, y0, t)
    assert found.solution.iterations.shape == batch
    assert int(found.solution.iterations.max()) <= 2  # linear
    torch.testing.assert_close(found.ys, step_by_step(func, y0, t, method="rk4"), rtol=0, atol=1e-12)  # rounding


def test_batch_dims_by_hand():
    y0 = torch.rand(3, 2).double()
    assert li.ode.integrate(logistic, y0, times(1.0, 10), batch_dims=0).solution.iterations.shape == ()


def test_a_module_that_counts_its_calls():
    """torchdiffeq's examples do; the calls are few."""

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.weight = torch.nn.Linear(2, 2).double()

        def forward(self, t, y):
            self.calls += 1
            return torch.tanh(self.weight(y))

    func = Counted()
    with torch.no_grad():
        li.ode.odeint(func, real(1, 0), times(1.0, 10_000))
    assert func.calls < 1500 < 40_000


@hypothesis.given(
    steps=st.lists(st.floats(0.02, 0.3), min_size=1, max_size=40), decreasing=st.booleans(), substeps=st.integers(1, 3)
)
def test_grids_of_any_steps(steps, decreasing, substeps):
    t = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    t = t.flip(0) if decreasing else t
    ours = li.ode.odeint(van_der_pol, real(0.5, 0.2), t, options={"substeps": substeps})
    part = torch.arange(substeps, dtype=torch.float64) / substeps
    nodes = torch.cat([(t[:-1, None] + part * t.diff()[:, None]).flatten(), t[-1:]])
    theirs = step_by_step(van_der_pol, real(0.5, 0.2), nodes, method="rk4")[::substeps]
    # rounding, which backwards in time grows, as the solution itself does
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("ends", [(0, 3), (3, 0)])
def test_step_size_and_interpolation_are_those_of_torchdiffeq(interp, ends):
    t = torch.linspace(*ends, 11, dtype=torch.float64)
    options = {"step_size": 0.07, "interp": interp}
    ours, theirs = (
        solve(van_der_pol, real(0, 1), t, method="rk4", options=options) for solve in (li.ode.odeint, step_by_step)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)  # rounding, amplified by backward time


def test_a_grid_constructor_is_asked():
    t = times(2.0, 4)
    options = {"grid_constructor": lambda func, y0, t: torch.linspace(0, 2, 41, dtype=torch.float64)}
    torch.testing.assert_close(
        li.ode.odeint(logistic, real(0.1), t, options=options),
        logistic_at(t),
        rtol=0,
        atol=1e-7,  # order 4, h = 0.05
    )


@pytest.mark.parametrize("method", ["rk4", "dopri5", "bosh3"])
@pytest.mark.parametrize("ends", [(0, 10), (10, 0)])
def test_an_adaptive_grid_is_frozen(method, ends):
    t = torch.linspace(*ends, 5, dtype=torch.float64)
    grid = (
        li.ode.adaptive_grid(van_der_pol, real(0.5, 0.1), t, method=method, rtol=1e-6, atol=1e-8)
        if ends[0] == 0
        else (li.ode.adaptive_grid(logistic, real(0.9), t, method=method, rtol=1e-6, atol=1e-8))
    )
    func, y0 = (van_der_pol, real(0.5, 0.1)) if ends[0] == 0 else (logistic, real(0.9))
    assert set(t.tolist()) <= set(grid.tolist())
    if ends[0] == 0:
        assert float(grid.diff().abs().max() / grid.diff().abs().min()) > 1.5
    y = li.ode.odeint(func, y0, t, grid=grid)
    fine = li.ode.odeint(func, y0, t, options={"substeps": 2000})
    assert y.shape == (5, *y0.shape)
    torch.testing.assert_close(y, fine, rtol=0, atol=1e-4)  # 1e-6 in each of some 100 steps


def test_errors_about_grids():
    y0, t = real(0.1), times(1.0, 10)
    with pytest.raises(ValueError, match="increasing or strictly decreasing"):
        li.ode.odeint(logistic, y0, real(0, 1, 0.5))
    with pytest.raises(TypeError, match="linspace"):
        li.ode.odeint(logistic, y0, [0.0, 1.0])
    with pytest.raises(ValueError, match="Did you mean `substeps`"):
        li.ode.odeint(logistic, y0, t, options={"substep": 2})
    with pytest.raises(ValueError, match="leave the rest out"):
        li.ode.odeint(logistic, y0, t, options={"substeps": 2, "step_size": 0.1})
    with pytest.raises(ValueError, match="begin and end"):
        li.ode.odeint(logistic, y0, t, grid=times(2.0, 10))
    with pytest.raises(ValueError, match="whole number"):
        li.ode.odeint(logistic, y0, t, options={"substeps": 0})
    with pytest.raises(ValueError, match="above 0"):
        li.ode.odeint(logistic, y0, t, options={"step_size": -1})


def test_errors_about_functions():
    y0, t = real(0.1, 0.2), times(1.0, 10)
    with pytest.raises(ValueError, match="event_fn"):
        li.ode.odeint(logistic, y0, t, event_fn=lambda t, y: y)
    with pytest.raises(ValueError, match="shape of its state"):
        li.ode.odeint(lambda t, y: y[:1], y0, t)
    with pytest.raises(RuntimeError) as caught:
        li.ode.odeint(lambda t, y: y if t > 0.5 else -y, y0, t)
    assert "torch.where" in "".join(caught.value.__notes__)
    with pytest.raises(TypeError, match="floating point"):
        li.ode.odeint(logistic, [0.1], t)
    with pytest.raises(ValueError, match="`rtol` must be"):
        li.ode.odeint(logistic, y0, t, rtol=-1)
