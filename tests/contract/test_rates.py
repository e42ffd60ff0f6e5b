"""The rate inequality at every iteration, for every method: gains, trust regions, kept Jacobians and low precision too.

Let e be the error of an iterate, J its Jacobians, L the shift by one step, and M the matrix that makes the update,
`d = M r`. Taylor's theorem gives `r = q - (I - J L) e` with `|q| <= K/2 |e|^2` (K: the Lipschitz constant of the
Jacobian), and the next error is

    e + d = (I - M (I - J L)) e + M q
    |e_{i+1}| <= |I - M (I - J L)| |e_i| + K/2 |M| |e_i|^2                                              (1)

A choice of A makes `M = (I - A L)^-1`, and `I - M (I - J L) = (I - A L)^-1 (J - A) L`: the papers' inequality. A gain
makes `d_t = A_t d_{t-1} + G_t r_t`, so `M = (I - A L)^-1 G`, and

    I - M (I - J L) = (I - A L)^-1 ((I - G) + (G J - A) L)
    |e_{i+1}| <= |(I - A L)^-1| (|I - G| |e_i| + |G J - A| |e_i| + K/2 |G| |e_i|^2)                     (2)

Kalman's filter has `A = G J`, so the middle term is gone. Its smoother, the Levenberg-Marquardt step, has no such A:
with `S = I - J L`, `M = (S^T S + q I)^-1 S^T`. The chord method has the A of an earlier iterate; a trust region the
A or the gains for its present damping, rows of the identity in M behind the row from which on it rejects, and
multiplies every row of the update by a number in [0, 1], hence M by a diagonal matrix.

Every M is built here from dense matrices by these formulas, and held against what the method did, before it is held
against the errors. Accepted rows are exact and do not move; all matrices are those of the open rows, and the first open
row, which takes the value of `f`, has the first row of the identity in M.
"""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from catalogue import METHODS, loop
from dense import spectral, system
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li

DOUBLE = torch.float64
WIDTH = 4
ROUNDING = {"low-precision-newton": 2.0**-8, "low-precision-quasi": 2.0**-23, "trust-rotated": 2.0**-8}
"""The unit of the precision in which a method scans, where it is not that of the states: bfloat16 or float32."""


@dataclass(frozen=True)
class Step:
    """One iteration: the first open row, all states it started from, `(T, D)`, and of the open rows the Jacobians,
    `(n, D, D)`, the residual, `(n D)`, and M; `shortens`: whether the method may scale rows of `M r`."""

    first: int
    states: torch.Tensor
    jacobians: torch.Tensor
    residual: torch.Tensor
    response: torch.Tensor
    shortens: bool

    def open(self, trajectory):
        return trajectory[self.first :].flatten()


@dataclass(frozen=True)
class Watched(li.LDSApproximation):
    """Another method, with what each of its iterations should do by theory."""

    method: li.LDSApproximation
    steps: list = field(default_factory=list)
    kept: dict = field(default_factory=dict)

    def init(self, guess):
        return self.method.init(guess)

    def update(self, lin, carry):
        residual, states, first = lin.residual.flatten().clone(), lin.value - lin.residual, int((~lin.open).sum())
        jacobians, transitions = lin.jacobian()[first:], Transitions(replace(lin, residual=lin.residual.clone()), first)
        d, after = self.method.update(lin, carry)
        method, before, behind = part_in_charge(self.method, carry, after)
        m = response(method, transitions, before, self.kept)
        shortens = isinstance(method, li.TrustRegion)
        if shortens:
            m, shortens = with_what_was_tried(method, transitions, before, d.flatten()[first * WIDTH :], residual, m)
        if shortens and bool(behind.rejected > before.rejected):
            m = behind_the_first_far_row(method, lin.value[first:], residual[first * WIDTH :], m)
        self.steps.append(Step(first, states, jacobians, residual[first * WIDTH :], m, shortens))
        return d, after


@dataclass(frozen=True)
class Transitions:
    """The `A_t` that a method chooses in the open rows, as full matrices."""

    lin: li.Linearization
    first: int

    def of(self, method):
        return method.transition(self.lin).dense(self.lin.prev).matrix[self.first :].to(DOUBLE)


def part_in_charge(method, carry, after):
    if not isinstance(method, li.Switch):
        return method, carry, after
    name = "second" if bool(after.done) else "first"
    return part_in_charge(getattr(method, name), getattr(carry, name), getattr(after, name))


def with_what_was_tried(method, transitions, carry, d, residual, m):
    """M with the undamped rows that a trust region took after a trial, and whether it may shorten others."""
    free = response(method, transitions, replace(carry, k=torch.zeros_like(carry.k)), {})
    whole = (free @ residual[-len(d) :]).view(-1, WIDTH)
    rounding = 2.0**-5 if "LowPrecision" in repr(method) else 1e-12
    taken = ((d.view(-1, WIDTH) - whole).abs().amax(-1) <= rounding * (1 + whole.abs().max())).cumprod(0).bool()
    return (free, False) if bool(taken.all()) else (m, True)


def behind_the_first_far_row(method, value, residual, m):
    """M with rows of the identity where a trust region has thrown its update away."""
    extent = max((value.amax(0) - value.amin(0)).max(), residual.abs().max())
    far = (m @ residual).view(-1, WIDTH).abs().amax(-1) > method.relax * extent
    lost = (far.cumsum(0) > far).repeat_interleave(WIDTH)
    return torch.where(lost[:, None], torch.eye(len(m), dtype=DOUBLE), m)


def response(method, transitions, carry, kept):
    """M by theory."""
    match method:
        case li.LevenbergMarquardt():
            return kalman(method, transitions, 1 / method.sigma2)
        case li.TrustRegion(method=li.LevenbergMarquardt()):
            return kalman(method.method, transitions, float(carry.k / (1 - carry.k)))
        case li.TrustRegion():
            return torch.linalg.inv(system((1 - carry.k) * transitions.of(method.method)))
        case li.Chord():
            if carry is None or transitions.lin.iteration % method.refresh == 0:
                kept["first"], kept["matrices"] = transitions.first, transitions.of(method.method)
            return torch.linalg.inv(system(kept["matrices"][transitions.first - kept["first"] :]))
        case _:
            return torch.linalg.inv(system(transitions.of(method)))


def kalman(method, transitions, precision):
    jacobians = transitions.of(method.approximation)
    if isinstance(method.form, li.Filter):
        keep = gains(jacobians, precision)
        return torch.linalg.inv(system(keep @ jacobians)) @ torch.block_diag(*keep)
    full = system(jacobians)
    free = full[WIDTH:, WIDTH:]  # behind the first row, where d is the residual
    inner = torch.linalg.solve(free.T @ free + precision * torch.eye(len(free), dtype=DOUBLE), free.T)
    behind = torch.cat([-inner @ full[WIDTH:, :WIDTH], inner], 1)
    return torch.cat([torch.eye(len(full), dtype=DOUBLE)[:WIDTH], behind])


def gains(jacobians, precision):
    """`G_t = I - K_t` of the textbook recursion: process noise 1, observation noise `1 / precision`, an exact start."""
    one = torch.eye(WIDTH, dtype=DOUBLE)
    covariance, keep = torch.zeros_like(one), [one]
    for jacobian in jacobians[1:]:
        covariance = jacobian @ covariance @ jacobian.T + one
        keep.append(torch.linalg.inv(one + precision * covariance))
        covariance = keep[-1] @ covariance
    return torch.stack(keep)


def scales(step, moved):
    """By how much each row of `M r` was shortened, one number for each entry."""
    if not step.shortens:
        return torch.ones_like(moved)
    rows, taken = (x.view(-1, WIDTH) for x in (step.response @ step.residual, moved))
    scale = (rows * taken).sum(-1) / rows.square().sum(-1).clamp(min=1e-300)
    # Below 1e-9 the rounding of states of about 1 says nothing about a ratio.
    return torch.where(rows.norm(dim=-1) > 1e-9, scale, 1).repeat_interleave(WIDTH)


def solved(f, s0, inputs, method, guess):
    """Every step of a solve with the errors, on its open rows, before and after it, and how it moved them."""
    watched = Watched(method)
    solution = li.solve(f, s0, inputs, watched, guess=guess, rtol=0, atol=1e-12)
    truth = loop(f, s0, inputs)
    ends = [step.states for step in watched.steps[1:]] + [solution.states]
    for step, end in zip(watched.steps, ends, strict=True):
        yield step, step.open(step.states - truth), step.open(end - truth), step.open(end - step.states)


def check_rate(name, f, s0, inputs, lipschitz, guess):
    """Inequality (1) at every iteration of a solve; returns how many there were."""
    count, unit = 0, ROUNDING.get(name, 1e-15)
    for step, before, after, moved in solved(f, s0, inputs, METHODS[name], guess):
        scale, off = scales(step, moved), 1e-6 + 2 * len(step.jacobians) * unit
        assert ((scale > -off) & (scale < 1 + off)).all()
        response = scale.unsqueeze(-1) * step.response
        # A scan of n steps rounds each term of its sums at most 2 n times, in its own precision.
        size = float((response.abs() @ step.residual.abs()).norm())
        rounding = 2 * len(step.jacobians) * unit * size + 1e-13 * (1 + float(step.states.norm()))
        assert float((moved - response @ step.residual).norm()) <= rounding
        left = torch.eye(len(before), dtype=DOUBLE) - response @ system(step.jacobians)
        error = float(before.norm())
        bound = spectral(left) * error + lipschitz / 2 * spectral(response) * error**2
        assert float(after.norm()) <= bound * (1 + 1e-9) + rounding
        count += 1
    return count


def problem(seed, gain, length):
    generator = torch.Generator().manual_seed(seed)
    weight = gain * torch.randn(WIDTH, WIDTH, generator=generator, dtype=DOUBLE) / WIDTH**0.5
    inputs = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    guess = torch.randn(length, WIDTH, generator=generator, dtype=DOUBLE)
    return weight, inputs, guess


CASES = {"seed": st.integers(0, 1000), "gain": st.sampled_from([0.3, 0.9, 1.5]), "length": st.integers(2, 6)}


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=3)
@given(**CASES)
def test_rate_on_tanh_networks(name, seed, gain, length):
    """`f = tanh(W s + u)`: the slope of tanh' is at most 4 / (3 sqrt 3), so `K = 4 / (3 sqrt 3) |W| max_i |W_i|`."""
    weight, inputs, guess = problem(seed, gain, length)
    lipschitz = 4 / (3 * math.sqrt(3)) * spectral(weight) * float(weight.norm(dim=-1).max())
    s0 = torch.zeros(WIDTH, dtype=DOUBLE)
    assert check_rate(name, lambda s, u: torch.tanh(s @ weight.T + u), s0, inputs, lipschitz, guess)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=3)
@given(**CASES)
def test_rate_on_linear_systems(name, seed, gain, length):
    """K = 0, so the matrix alone decides."""
    weight, inputs, guess = problem(seed, gain, length)
    s0 = torch.zeros(WIDTH, dtype=DOUBLE)
    assert check_rate(name, lambda s, u: s @ weight.T + u, s0, inputs, 0.0, guess)


@pytest.mark.parametrize("sigma2", [0.1, 3.0, 1e4])
@settings(max_examples=10)
@given(**CASES)
def test_the_filter_has_a_gain_and_its_inequality(sigma2, seed, gain, length):
    """(2), for `A = G J` and the gains of the textbook recursion."""
    weight, inputs, guess = problem(seed, gain, length)
    s0, method = torch.zeros(WIDTH, dtype=DOUBLE), li.LevenbergMarquardt(sigma2)
    for step, before, after, _ in solved(lambda s, u: s @ weight.T + u, s0, inputs, method, guess):
        keep = gains(step.jacobians, 1 / sigma2)
        inverse = spectral(torch.linalg.inv(system(keep @ step.jacobians)))
        away = max(spectral(torch.eye(WIDTH, dtype=DOUBLE) - block) for block in keep)
        error = float(before.norm())
        assert float(after.norm()) <= inverse * away * error * (1 + 1e-9) + 1e-13 * (1 + error)


@pytest.mark.parametrize("sigma2", [0.1, 3.0, 1e4])
@settings(max_examples=10)
@given(**CASES)
def test_the_smoother_shrinks_every_error_of_a_linear_system(sigma2, seed, gain, length):
    """`I - M S = q (S^T S + q I)^-1` has the norm `q / (q + mu)`, with `mu` the PL constant: below 1, whatever J is."""
    weight, inputs, guess = problem(seed, gain, length)
    s0, method = torch.zeros(WIDTH, dtype=DOUBLE), li.LevenbergMarquardt(sigma2, form=li.Smoother())
    for step, before, after, _ in solved(lambda s, u: s @ weight.T + u, s0, inputs, method, guess):
        mu = float(torch.linalg.svdvals(system(step.jacobians))[-1]) ** 2
        # The first open row becomes exact, and its error drives the others: measured without it.
        rest = torch.cat([torch.zeros_like(before[:WIDTH]), before[WIDTH:]])
        driven = float((step.response @ system(step.jacobians)[:, :WIDTH] @ before[:WIDTH]).norm())
        bound = float(rest.norm()) / (1 + sigma2 * mu) + driven + float(before[:WIDTH].norm())
        assert float(after.norm()) <= bound * (1 + 1e-9) + 1e-13 * (1 + float(before.norm()))
