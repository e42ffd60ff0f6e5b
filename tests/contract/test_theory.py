"""The theorems of the field, held against every method: rates, conditioning, finite termination."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, loop
from dense import spectral, system
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li
from lds_iter import diagnostics as d

DOUBLE = torch.float64
WIDTH = 4
TRANSITIONS = {
    name: method
    for name, method in {**METHODS, "random": ADVERSARIES["random"]}.items()
    if isinstance(method, li.TransitionApproximation) and not isinstance(method, li.LowPrecision)
}
"""Methods that scan in the precision of the states: rounding in bfloat16 is an error of its own beside the rate."""


@dataclass(frozen=True)
class Recorded(li.TransitionApproximation):
    """Another method, with what each iteration started from and which matrices it used."""

    method: li.TransitionApproximation
    steps: list = field(default_factory=list)

    def transition(self, lin):
        transition = self.method.transition(lin)
        dense = transition.dense(lin.prev).matrix
        self.steps.append((lin.value - lin.residual, lin.jacobian(), dense.clone()))
        return transition


def linear(slope):
    return lambda s, u: slope * s + u


def check_rate(f, s0, inputs, method, lipschitz, guess):
    """The inequality at every iteration of a solve; returns how many there were."""
    recorded = Recorded(method)
    solution = li.solve(f, s0, inputs, recorded, guess=guess, rtol=0, atol=1e-12, throw=False)
    truth = loop(f, s0, inputs)
    iterates = [states for states, _, _ in recorded.steps] + [solution.states]
    errors = [float((states - truth).norm()) for states in iterates]
    for index, (_, jacobians, matrices) in enumerate(recorded.steps):
        inverse = spectral(torch.linalg.inv(system(matrices)))
        gap = max(spectral(missed) for missed in (jacobians - matrices)[1:])
        bound = inverse * (gap * errors[index] + lipschitz / 2 * errors[index] ** 2)
        # Rounding: each scan rounds its d, which the system amplifies by at most `inverse`.
        assert errors[index + 1] <= bound * (1 + 1e-9) + 1e-13 * inverse * (1 + errors[index])
    return len(recorded.steps)


@pytest.mark.parametrize("name", TRANSITIONS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), gain=st.sampled_from([0.3, 0.9, 1.5]), length=st.integers(2, 12))
def test_rate_on_tanh_networks(name, seed, gain, length):
    """`f = tanh(W s + u)`: the slope of tanh' is at most 4 / (3 sqrt 3), so `|J(x) - J(y)| <= K |x - y|` with
    `K = 4 / (3 sqrt 3) |W| max_i |W_i|`."""
    generator = torch.Generator().manual_seed(seed)
    weight = gain * torch.randn(WIDTH, WIDTH, generator=generator, dtype=DOUBLE) / WIDTH**0.5
    inputs = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    guess = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    lipschitz = 4 / (3 * math.sqrt(3)) * spectral(weight) * float(weight.norm(dim=-1).max())
    s0 = torch.zeros(WIDTH, dtype=DOUBLE)
    assert check_rate(lambda s, u: torch.tanh(s @ weight.T + u), s0, inputs, TRANSITIONS[name], lipschitz, guess) > 0


@pytest.mark.parametrize("name", TRANSITIONS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), gain=st.sampled_from([0.3, 0.9, 1.5]), length=st.integers(2, 12))
def test_rate_on_linear_systems(name, seed, gain, length):
    """The second-order term is gone: K = 0."""
    generator = torch.Generator().manual_seed(seed)
    matrix = gain * torch.randn(WIDTH, WIDTH, generator=generator, dtype=DOUBLE) / WIDTH**0.5
    inputs = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    guess = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    s0 = torch.zeros(WIDTH, dtype=DOUBLE)
    assert check_rate(lambda s, u: s @ matrix.T + u, s0, inputs, TRANSITIONS[name], 0.0, guess) > 0


@settings(max_examples=40)
@given(exponent=st.floats(-3, 1), length=st.integers(2, 60), width=st.integers(1, 4), seed=st.integers(0, 1000))
def test_bounds_of_mu_where_growth_is_uniform(exponent, length, width, seed):
    """`e^l` times orthogonal matrices: every direction grows by exactly `e^l` a step, as the theorem assumes."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(length, width, width, generator=generator, dtype=DOUBLE))[0]
    matrices = math.exp(exponent) * turns

    def f(s, u):
        return (u @ s.unsqueeze(-1)).squeeze(-1)

    found = d.conditioning(f, torch.ones(width, dtype=DOUBLE), matrices, prefix=None)
    exact = 2 * torch.linalg.svdvals(system(matrices))[-1].log()
    assert abs(float(found.exponent.largest) - exponent) < 1e-12
    # The measurement is settled to 1e-6 an iteration; for the dense values, eps times the condition number.
    assert abs(float(found.log_mu - exact)) < 1e-4 + 1e-14 * math.exp(max(0.0, exponent) * length)
    assert found.log_lower <= found.log_mu + 1e-9
    assert found.log_mu <= found.log_upper + 1e-4


@pytest.mark.parametrize(("exponent", "steps"), [(-0.5, 10**6), (0.7, 10**6), (0.0, 10**6), (1e-15, 1000), (-40.0, 7)])
def test_bounds_of_mu_at_any_length(exponent, steps):
    """Neither overflows: the lower one is `-2 log sum_k e^{lk}`, summed here by logsumexp."""
    lower, upper = d.mu_bounds(torch.tensor(exponent, dtype=DOUBLE), steps)
    expected = -2 * (exponent * torch.arange(steps, dtype=DOUBLE)).logsumexp(0)
    torch.testing.assert_close(lower, expected, rtol=1e-9, atol=1e-9)  # the sum rounds a million times
    assert float(upper) == pytest.approx(min(0.0, -2 * exponent * (steps - 1)))
    assert lower <= upper + 1e-9


def test_predictable_systems_stay_well_conditioned_and_chaotic_ones_do_not():
    """The claim in one line: `log mu` is bounded in T for l < 0, and falls in proportion to T for l > 0."""
    for exponent, grows in (-0.1, False), (0.1, True):
        problem = linear(math.exp(exponent)), torch.zeros(1, dtype=DOUBLE)
        short, long = (d.conditioning(*problem, torch.zeros(n, 1, dtype=DOUBLE), prefix=None) for n in (100, 400))
        fall = float(short.log_mu - long.log_mu)
        assert fall == pytest.approx(2 * 0.1 * 300, rel=0.01) if grows else fall < 0.1


@pytest.mark.parametrize("name", [*METHODS, *ADVERSARIES])
@settings(max_examples=5)
@given(seed=st.integers(0, 1000), length=st.integers(1, 9))
def test_finite_termination(name, seed, length):
    """At most T iterations, whatever the method, on an expanding system; the states are then exact."""
    generator = torch.Generator().manual_seed(seed)
    weight = 2 * torch.randn(WIDTH, WIDTH, generator=generator, dtype=DOUBLE) / WIDTH**0.5
    inputs = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)

    def f(s, u):
        return torch.sin(s @ weight.T) + s + u

    s0 = torch.zeros(WIDTH, dtype=DOUBLE)
    solution = li.solve(f, s0, inputs, {**METHODS, **ADVERSARIES}[name], rtol=0, atol=0, max_iters=length)
    assert solution.converged
    assert solution.iterations <= length
    # Batched products round differently from single ones; nine steps amplify that by at most about 6^9.
    torch.testing.assert_close(solution.states, loop(f, s0, inputs), rtol=1e-8, atol=1e-8)
