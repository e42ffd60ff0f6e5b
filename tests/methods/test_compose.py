"""The laws of the wrappers, rules, guesses and the trust region, beyond the contract that every method keeps."""

import ast
import inspect
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from catalogue import ROTATION, elementwise, loop, tanh_rnn

import lds_iter as li
from bench import composed
from bench.edge.problems import lorenz, sine
from lds_iter import _torch
from lds_iter.derivatives.along import linearize_along

F64 = torch.float64
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def problem(batch=(), length=80, width=4, gain=1.2, dtype=F64):
    """A network at which Newton needs a handful of iterations."""
    inputs = torch.randn(length, *batch, width, dtype=dtype)
    return tanh_rnn(width, gain, dtype), torch.zeros(*batch, width, dtype=dtype), inputs


def alone(solution, i):
    """What is to be compared of one sequence of a batch."""
    return int(solution.iterations[i]), int(solution.result[i]), solution.states[:, i]


def assert_mates_do_not_meet(f, s0, inputs, method, **options):
    """Every sequence of a batch of one dimension by itself: the same counts and codes, states to rounding."""
    together = li.solve(f, s0, inputs, method, throw=False, **options)
    for i in range(len(s0)):
        single = li.solve(f, s0[i], inputs[:, i], method, throw=False, **options)
        count, code, states = alone(together, i)
        assert (count, code) == (int(single.iterations), int(single.result))
        torch.testing.assert_close(states, single.states, rtol=0, atol=1e-9)  # products of other shapes round otherwise


# Chord


def mixing(s, u):
    """Couples its coordinates without a matrix product, so that it rounds the same whatever rows come together."""
    return torch.tanh(1.2 * s - 0.9 * s.roll(1, -1) + u)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.Then(li.Jacobi(), li.Newton(), 2)], ids=repr)
def test_a_chord_that_renews_every_time_is_the_method(method, window):
    s0, inputs = torch.zeros(4, dtype=F64), torch.randn(80, 4, dtype=F64)
    plain, chord = (li.solve(mixing, s0, inputs, m, window=window) for m in (method, li.Chord(method, 1)))
    assert chord.iterations == plain.iterations
    exactly(chord.states, plain.states)


@dataclass(frozen=True)
class Counting(li.TransitionApproximation):
    """Newton that counts how often it is asked."""

    calls: list

    def transition(self, lin):
        self.calls.append(lin.iteration)
        return li.Dense(lin.jacobian())


def test_a_chord_asks_every_refresh_iterations():
    calls = []
    solution = li.solve(*problem(), li.Chord(Counting(calls), 3))
    assert calls == list(range(0, int(solution.iterations), 3))
    newton = li.solve(*problem(), li.Newton())
    assert int(solution.iterations) >= int(newton.iterations)


@pytest.mark.parametrize("refresh", [2, 3])
def test_a_chord_in_a_window_renews_by_age(refresh):
    f, s0, inputs = problem(batch=(3,))
    guess = 0.1 * torch.randn(80, 3, 4, dtype=F64)
    guess[:, 1] = loop(f, s0, inputs)[:, 1]  # its window slides ahead of its mates'
    together = li.solve(f, s0, inputs, li.Chord(li.Newton(), refresh), window=11, guess=guess)
    assert len(set(together.iterations.tolist())) > 1
    for i in range(3):
        single = li.solve(f, s0[i], inputs[:, i], li.Chord(li.Newton(), refresh), window=11, guess=guess[:, i])
        assert together.iterations[i] == single.iterations
        torch.testing.assert_close(together.states[:, i], single.states, rtol=0, atol=1e-9)


# LowPrecision


@pytest.mark.parametrize(
    ("dtype", "low", "tolerance", "more"),
    [
        (torch.float32, torch.bfloat16, 1e-5, 8),  # a refinement gains the 8 bits of bfloat16 an iteration at best
        (F64, torch.bfloat16, 1e-10, 14),
        (F64, torch.float32, 1e-10, 2),
    ],
)
def test_low_precision_reaches_full_precision(dtype, low, tolerance, more):
    f, s0, inputs = problem(length=300, gain=0.9, dtype=dtype)
    full = li.solve(f, s0, inputs, rtol=0, atol=tolerance)
    lowered = li.solve(f, s0, inputs, li.LowPrecision(li.Newton(), low), rtol=0, atol=tolerance)
    assert int(lowered.iterations) <= int(full.iterations) + more
    assert lowered.states.dtype == dtype
    # residuals of `tolerance` add up over the memory of this network, a few tens of steps
    torch.testing.assert_close(lowered.states, loop(f, s0, inputs), rtol=0, atol=100 * tolerance)


# Rotated


def test_newton_is_the_same_in_every_basis():
    f, s0, inputs = problem()
    plain, turned = li.solve(f, s0, inputs), li.solve(f, s0, inputs, li.Rotated(li.Newton(), ROTATION))
    assert plain.iterations == turned.iterations
    torch.testing.assert_close(turned.states, plain.states, rtol=0, atol=1e-12)  # rounding of products of order 1


@pytest.mark.parametrize("method", [li.QuasiNewton(), li.BlockNewton(2)], ids=repr)
def test_a_diagonal_in_the_basis_of_eigenvectors_is_newton(method):
    symmetric = torch.randn(4, 4, dtype=F64)
    symmetric = 0.2 * (symmetric + symmetric.T)
    q = torch.linalg.eigh(symmetric).eigenvectors
    inputs = torch.randn(50, 4, dtype=F64)

    def affine(s, u):
        return s @ symmetric + u

    s0 = torch.zeros(4, dtype=F64)
    assert int(li.solve(affine, s0, inputs, li.Rotated(method, q)).iterations) == 1
    assert int(li.solve(affine, s0, inputs, method).iterations) > 1


def test_a_rotation_leaves_a_multiple_of_the_identity_alone():
    f, s0, inputs = problem(gain=0.5)
    plain, turned = (li.solve(f, s0, inputs, m) for m in (li.Picard(), li.Rotated(li.Picard(), ROTATION)))
    assert plain.iterations == turned.iterations
    exactly(turned.states, plain.states)


# Where


def test_where_chooses_per_row():
    f, s0, inputs = problem()
    seen = []

    @dataclass(frozen=True)
    class Look(li.TransitionApproximation):
        def transition(self, lin):
            chosen = (torch.arange(lin.rows.start, lin.rows.start + len(lin.residual)) % 2 == 0)[:, None]
            mixed = li.Where(lambda _: chosen, li.Newton(), li.QuasiNewton()).transition(lin)
            seen.append((chosen[:, 0], mixed, lin.jacobian()))
            return mixed

    assert li.solve(f, s0, inputs, Look()).converged
    for chosen, mixed, jacobian in seen:
        assert isinstance(mixed, li.Dense)
        exactly(mixed.matrix[chosen], jacobian[chosen])
        exactly(mixed.matrix[~chosen], torch.diag_embed(jacobian[~chosen].diagonal(dim1=-2, dim2=-1)))


@pytest.mark.parametrize(("answer", "same"), [(True, li.Newton()), (False, li.QuasiNewton())])
def test_where_one_answer_holds_everywhere_it_is_that_method(answer, same):
    f, s0, inputs = problem()
    method = li.Where(lambda lin: torch.full_like(lin.residual[..., :1], answer).bool(), li.Newton(), li.QuasiNewton())
    mixed, plain = li.solve(f, s0, inputs, method), li.solve(f, s0, inputs, same)
    assert mixed.iterations == plain.iterations
    torch.testing.assert_close(mixed.states, plain.states, rtol=0, atol=1e-9)  # within the tolerance of the solve


# Switch


def history(residuals, rule):
    """What a rule says of each residual of a sequence, `(n, batch)`."""
    ask = li.methods.asked(rule)
    return torch.stack([ask(SimpleNamespace(residual=residual)) for residual in residuals])


def test_below_holds_below():
    said = history(torch.tensor([[2.0, 0.1], [0.5, 3.0], [0.4, torch.nan]]), li.Below(0.5))
    assert said.tolist() == [[False, True], [True, False], [True, False]]


def test_stalled_holds_after_patience_without_progress():
    residuals = torch.tensor([[1.0, 1.0], [0.95, 0.5], [0.92, 0.25], [0.91, 0.125], [0.1, torch.nan], [0.1, torch.nan]])
    said = history(residuals, li.Stalled(patience=2, factor=0.9))
    assert said[:, 0].tolist() == [False, False, True, True, False, False]
    assert said[:, 1].tolist() == [False, False, False, False, False, True]


def test_a_switch_changes_for_good_and_each_mate_for_itself():
    f, s0, inputs = problem(batch=(3,))
    guess = torch.zeros(80, 3, 4, dtype=F64)
    guess[:, 1] = loop(f, s0, inputs)[:, 1] + 1e-3
    used = []

    @dataclass(frozen=True)
    class Tell(li.LDSApproximation):
        inner: li.TransitionApproximation
        name: str

        def init(self, guess):
            return None

        def update(self, lin, carry):
            used.append((self.name, lin.active.tolist(), lin.residual.abs().amax((0, -1)).tolist()))
            return self.inner.update(lin, carry)

    method = li.Switch(Tell(li.Jacobi(), "first"), Tell(li.Newton(), "second"), li.Below(0.05))
    solution = li.solve(f, s0, inputs, method, guess=guess)
    assert solution.converged
    assert solution.carry.done.all()
    for i in range(3):
        turns = [(name, residual[i]) for name, active, residual in used if active[i]]
        names = [name for name, _ in turns]
        change = names.index("second")
        assert set(names[:change]) <= {"first"}
        assert set(names[change:]) == {"second"}
        assert all(residual > 0.05 for _, residual in turns[:change])
        assert turns[change][1] <= 0.05
    assert_mates_do_not_meet(f, s0, inputs, li.Switch(li.Jacobi(), li.Newton(), li.Below(0.05)))


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("looks", [True, False])
def test_a_chord_behind_a_switch_begins_anew_for_each_mate(window, looks, monkeypatch):
    """The transitions that it keeps of the first mate to come say nothing of those that come later."""
    if not looks:
        monkeypatch.setattr(_torch, "on_host", lambda tensor: False)
    rate = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)[:, None]
    drive = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = torch.cat([rate.expand(40, 3, 1), drive], -1)
    f = lambda s, u: u[..., :1] * torch.sin(s + u[..., 1:])  # noqa: E731
    method = li.Switch(li.Jacobi(), li.Chord(li.QuasiNewton(), 50), li.Below(0.2))
    assert_mates_do_not_meet(f, torch.zeros(3, 4, dtype=torch.float64), inputs, method, window=window)


def test_a_switch_leaves_what_stalls():
    f, s0, inputs = problem(length=200, gain=0.7)

    @dataclass(frozen=True)
    class Idle(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            return torch.zeros_like(lin.residual), carry

    solution = li.solve(f, s0, inputs, li.Switch(Idle(), li.Newton(), li.Stalled(4)))
    newton = li.solve(f, s0, inputs)
    assert int(newton.iterations) <= int(solution.iterations) <= int(newton.iterations) + 4


# Coarse


def test_a_coarse_guess_of_stride_one_is_the_trajectory():
    f, s0, inputs = problem(batch=(2,))
    solution = li.solve(f, s0, inputs, guess=li.Coarse(1, f))
    assert solution.iterations.tolist() == [0, 0]
    exactly(li.Coarse(1, f)(f, s0, inputs, 80), li.sequential(f, s0, inputs))


@pytest.mark.parametrize("length", [12, 13, 15])
def test_a_coarse_guess_joins_its_states_by_lines(length):
    def step(s, u):
        return s + 4 * u

    s0, inputs = torch.ones(2, 3, dtype=F64), torch.randn(length, 2, 3, dtype=F64)
    guess = li.Coarse(4, step)(elementwise, s0, inputs, length)
    expected, s = [], s0
    for t in range(length):
        left = inputs[t - t % 4]
        expected.append(s + (t % 4 + 1) * left)
        s = expected[-1] if t % 4 == 3 else s
    torch.testing.assert_close(guess, torch.stack(expected))


# stop


def test_a_stop_rule_ends_some_sequences_and_leaves_their_mates_alone():
    f, s0, inputs = problem(batch=(3,))
    first = torch.tensor([True, False, False])
    solution = li.solve(f, s0, inputs, li.Jacobi(), stop=lambda progress: first & (progress.iterations >= 3))
    free = li.solve(f, s0, inputs, li.Jacobi())
    assert solution.result.tolist() == [li.Result.STOPPED, li.Result.SUCCESS, li.Result.SUCCESS]
    assert not solution.failed
    assert not solution.converged
    assert solution.iterations.tolist() == [3, *free.iterations[1:].tolist()]
    exactly(solution.states[:, 1:], free.states[:, 1:])
    three = li.solve(f, s0, inputs, li.Jacobi(), max_iters=3, throw=False)
    exactly(solution.states[:, 0], three.states[:, 0])
    assert solution.residual[0] == three.residual[0]


def test_what_a_stopped_solve_returns_belongs_together():
    f, s0, inputs = problem(length=200)
    solution = li.solve(f, s0, inputs, li.Jacobi(), stop=lambda progress: progress.residual < 0.1)
    before = torch.cat([s0[None], solution.states[:-1]])
    residual = (f(before, inputs) - solution.states).abs().max()
    assert 1e-8 < float(residual) < 0.1
    torch.testing.assert_close(solution.residual, residual, rtol=1e-12, atol=0)  # one product, two memory layouts


def test_what_is_solved_is_not_called_stopped():
    f, s0, inputs = problem()
    solution = li.solve(f, s0, inputs, guess=li.sequential(f, s0, inputs), stop=lambda p: p.residual < 1)
    assert int(solution.result) == li.Result.SUCCESS


@pytest.mark.parametrize("answer", [True, torch.tensor(1.0), torch.tensor([True])], ids=["bool", "float", "shape"])
def test_a_stop_rule_must_answer_per_sequence(answer):
    with pytest.raises(TypeError, match=re.escape("`stop` must return a bool for each sequence, torch.bool ()")):
        li.solve(*problem(), stop=lambda _: answer)


# TrustRegion


def scaled_problem(scale, batch=()):
    """The strong network of the docs, its states in other units; powers of 2 round alike."""
    f, s0, inputs = problem(batch, length=200, gain=3.0)
    return (lambda s, u: scale * f(s / scale, u)), s0, inputs


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])
def test_the_trust_region_has_no_unit(scale):
    options = {"rtol": 0, "atol": 1e-8}
    plain = li.solve(*scaled_problem(1.0), li.TrustRegion(li.Newton()), **options)
    torch.manual_seed(0)
    other = li.solve(*scaled_problem(scale), li.TrustRegion(li.Newton()), **options | {"atol": scale * 1e-8})
    assert other.iterations == plain.iterations
    assert other.carry.rejected == plain.carry.rejected
    exactly(other.states / scale, plain.states)


def test_the_damping_goes_to_zero_and_the_tail_is_newtons():
    task = sine(1_000, 1)
    solution = li.solve(task.f, task.s0, task.inputs, li.TrustRegion(li.Newton()), rtol=0, atol=1e-12, record=True)
    assert float(solution.carry.k) < 1e-3
    tail = solution.history.residual[-4:].tolist()
    # quadratic: the last factors between residuals grow from one to the next, up to the level of rounding
    assert tail[1] / tail[0] < 0.1
    assert tail[2] / tail[1] < 0.5 * tail[1] / tail[0]


def test_it_solves_in_a_few_iterations_what_newton_does_not():
    task = sine(4_000, 1)
    trusted = task.solve(li.TrustRegion(li.Newton()), 45)
    newton = task.solve(li.Newton(), 45)
    assert trusted.converged
    assert newton.failed
    # residuals of 1e-10 over 4,000 steps that neither forget nor grow
    torch.testing.assert_close(trusted.states, task.sequential(), rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Far(li.TransitionApproximation):
    """Identities and residuals that add up: proposals that are always far too long until damped."""

    size: float

    def transition(self, lin):
        return li.ScaledIdentity(self.size)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_rows_behind_the_first_far_one_take_the_value_of_f(damping):
    """Residuals of 1 that triple from row to row: 1, 4, 13, ... in units of the extent, without damping."""

    def f(s, u):
        return 0 * s + u

    method, inputs = li.TrustRegion(Far(3.0)), torch.ones(60, 2, 1, dtype=F64)
    inputs[:, 1] = 0
    inputs[30, 1] = 1  # alone, and as far at its time
    lin = next(linearize_along(f, torch.zeros_like(inputs), torch.zeros_like(inputs), inputs, rows=60, iteration=0))
    k = torch.full((2,), damping, dtype=F64)
    none = torch.zeros(2, dtype=torch.int64)
    d, trust = method.update(lin, li.Trust(k, none, none, k, none == 0))
    assert trust.rejected.tolist() == [1, 1]
    exactly(trust.k, k)  # it stays
    # Of the second, row 31 is the first far one, and no row behind it moves: their residuals are 0.
    step = torch.full((60, 1), 1 / 6, dtype=F64)
    torch.testing.assert_close(d[:, 0], step)  # to rounding: a step divides by the length and multiplies by it
    exactly(d[:30, 1], torch.zeros(30, 1, dtype=F64))
    torch.testing.assert_close(d[30:32, 1], step[30:32])
    exactly(d[32:, 1], torch.zeros(28, 1, dtype=F64))


def test_updates_that_are_not_finite_are_left_to_f():
    def f(s, u):
        return 0 * s + u

    inputs = torch.ones(60, 1, dtype=F64)
    lin = next(linearize_along(f, torch.zeros_like(inputs), torch.zeros_like(inputs), inputs, rows=60, iteration=0))
    method = li.TrustRegion(Far(1e200))
    d, trust = method.update(lin, method.init(inputs))
    assert int(trust.rejected) == 1
    torch.testing.assert_close(d, torch.full_like(d, 1 / 6))


def test_a_chaotic_flow_is_solved_in_fewer_iterations_than_newtons():
    """Most iterations reject most rows there; those up to where the update leaves the attractor must go on."""
    task = lorenz(1_000, 0)
    trusted = task.solve(li.TrustRegion(li.Newton()), 70)  # 46
    assert trusted.converged
    assert trusted.carry.rejected > trusted.iterations / 4
    # 131 by Newton (`python -m bench.edge`); residuals of 1e-10, amplified by a million over the length
    torch.testing.assert_close(trusted.states, task.sequential(), rtol=0, atol=1e-4)


def test_steps_are_bounded_in_extents_unless_a_trial_was_good():
    f, s0, inputs = scaled_problem(1.0)
    moves = []

    @dataclass(frozen=True)
    class Spy(li.LDSApproximation):
        def init(self, guess):
            return li.TrustRegion(li.Newton()).init(guess)

        def update(self, lin, carry):
            waited = carry.idle
            d, carry = li.TrustRegion(li.Newton(), step=0.1).update(lin, carry)
            extent = (lin.value.amax(0) - lin.value.amin(0)).max()
            if not (carry.trying or waited >= 6):  # no trial
                moves.append(float(d.abs().max() / max(extent, lin.residual.abs().max())))
            return d, carry

    assert li.solve(f, s0, inputs, Spy()).converged
    assert max(moves) <= 0.1 * (1 + 1e-3)  # the extent here counts the accepted rows too, which only makes it larger
    assert max(moves) > 0.05


@pytest.mark.parametrize("window", [None, 30])
def test_mates_in_a_trust_region_do_not_meet(window):
    s0 = torch.zeros(3, 4, dtype=F64)
    inputs = torch.randn(120, 3, 4, dtype=F64) * torch.tensor([0.1, 1.0, 3.0], dtype=F64)[:, None]
    assert_mates_do_not_meet(mixing, s0, inputs, li.TrustRegion(li.Newton()), window=window)


@pytest.mark.parametrize("form", [li.Filter(), li.Smoother()], ids=repr)
def test_kalmans_damping_under_the_gate_is_the_same_step_at_first(form):
    f, s0, inputs = problem(gain=1.0)
    k = 0.2
    trusted = li.TrustRegion(li.LevenbergMarquardt(1.0, form=form), k=k, step=1e6, reject=1e6)
    plain = li.LevenbergMarquardt((1 - k) / k, form=form)
    one, other = (li.solve(f, s0, inputs, m, max_iters=1, throw=False) for m in (trusted, plain))
    torch.testing.assert_close(one.states, other.states, rtol=0, atol=1e-12)  # 1 / sigma2 rounds once more
    two, another = (li.solve(f, s0, inputs, m, max_iters=2, throw=False) for m in (trusted, plain))
    assert not torch.allclose(two.states, another.states, rtol=0, atol=1e-9)


# Arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: li.Chord(li.LevenbergMarquardt(1.0), 2), "`method` must be an instance of StatefulTransition"),
        (lambda: li.Chord(li.Newton(), 0), "`refresh` must be a whole number, 1 or more, got 0"),
        (lambda: li.Chord(li.Newton(), True), "`refresh` must be a whole number"),
        (lambda: li.LowPrecision(li.Newton, torch.bfloat16), "Type `Newton()`."),
        (lambda: li.LowPrecision(li.Newton(), torch.int32), "`dtype` must be a floating-point torch.dtype"),
        (lambda: li.LowPrecision(li.Newton(), "bfloat16"), "`dtype` must be a floating-point torch.dtype"),
        (lambda: li.Rotated(li.Newton(), torch.ones(2, 3)), "`q` must be a square matrix"),
        (
            lambda: li.Rotated(li.Newton(), ROTATION.to("meta")),
            "that holds numbers, got one of layout torch.strided on meta",
        ),
        (
            lambda: li.Rotated(li.Newton(), ROTATION.to_sparse()),
            "that holds numbers, got one of layout torch.sparse",
        ),
        (lambda: li.Rotated(li.Newton(), [[1.0]]), "that holds numbers, got list"),
        (lambda: li.Rotated(li.Newton(), torch.ones(2, 2)), "Type torch.linalg.qr(q).Q."),
        (
            lambda: li.Rotated(li.TrustRegion(li.Newton()), ROTATION),
            "`method` must be an instance of StatefulTransition",
        ),
        (lambda: li.Where("newton", li.Newton(), li.Jacobi()), "`choose_rows` must be a function"),
        (lambda: li.Where(len, li.Newton, li.Jacobi()), "`one` must be an instance of StatefulTransition"),
        (lambda: li.Where(len, li.Newton(), 3), "`other` must be an instance of StatefulTransition"),
        (lambda: li.Switch(li.Newton, li.Newton(), li.Stalled()), "`first` must be an instance of LDSApproximation"),
        (lambda: li.Switch(li.Newton(), None, li.Stalled()), "`second` must be an instance of LDSApproximation"),
        (lambda: li.Switch(li.Newton(), li.Newton(), 3), "`when` must be an instance of AbstractRule"),
        (lambda: li.Stalled(patience=0), "`patience` must be a whole number, 1 or more"),
        (lambda: li.Stalled(factor=1.5), "`factor` must lie in (0, 1], got 1.5"),
        (lambda: li.Coarse(0, elementwise), "`stride` must be a whole number, 1 or more"),
        (lambda: li.TrustRegion(li.TrustRegion(li.Newton())), "`method` must be an instance of Dampable"),
        (lambda: li.TrustRegion(li.Newton(), k=0), "`k` must lie in (0, 0.95], got 0"),
        (lambda: li.TrustRegion(li.Newton(), relax=9), "Lengths must be 0 < relax <= reject, got relax=9"),
        (lambda: li.TrustRegion(li.Newton(), step=0), "`step` must be above 0, got 0. math.inf does not bound"),
    ],
)
def test_arguments_that_cannot_work_are_refused(build, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        build()


def test_a_basis_of_another_width_is_refused():
    with pytest.raises(ValueError, match="`q` is for states of width 4, but D = 2"):
        li.solve(*problem(width=2), li.Rotated(li.QuasiNewton(), ROTATION))


def test_a_trust_region_is_kept_by_the_solution_until_made_light():
    solution = li.solve(*problem(), li.TrustRegion(li.Newton()))
    assert isinstance(solution.carry, li.Trust)
    assert solution.light().carry is None
    assert replace(solution.carry, k=solution.carry.k).rejected is solution.carry.rejected


# The scheme of the documentation


def test_the_page_shows_the_scheme_that_is_measured():
    source = inspect.getsource(composed.TwoSteps)
    assert source in (Path(__file__).parents[2] / "docs" / "extend" / "compose.md").read_text()
    assert len([line for line in source.splitlines() if line.strip()]) <= 15


def test_the_page_has_ten_short_schemes_and_each_is_checked():
    """A scheme is at most 15 lines with something on them, counted class by class, with its decorator."""
    page = (Path(__file__).parents[2] / "docs" / "extend" / "compose.md").read_text()
    sections = re.split(r"^## \d+\. ", page, flags=re.MULTILINE)[1:]
    assert len(sections) == 10
    for section in sections:
        section = section.partition("\n## ")[0]
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
        checked = r"^\s*(print\()?(check_method|check_transition|li\.verify)\("
        assert re.search(checked, code, re.MULTILINE), section[:40]
        for node in ast.parse(code).body:
            if isinstance(node, ast.ClassDef):
                lines = ast.unparse(node).splitlines()  # however the page breaks them, with the decorator
                count = sum(bool(line.strip()) for line in lines)
                assert count <= 15, (node.name, count)


def test_the_composed_scheme_takes_fewer_iterations_than_every_method_of_the_library():
    """Half of the best, and the same states; every class of methods is among those compared."""
    found = composed.compared(1_000)
    ours = found["TwoSteps()"]
    others = [count for name, count in found.iterations.items() if name != "TwoSteps()"]
    assert len(others) >= len(composed.BUILT_IN) - 2  # Jacobi and the smoother do not get there
    assert int(ours.solution.iterations) <= min(others) / 2
    assert float(ours.error) < 1e-8  # residuals of 1e-10 in 1,000 steps that hardly amplify
    classes = {type(method).__name__ for method in composed.BUILT_IN}
    assert classes >= {"Newton", "QuasiNewton", "BlockNewton", "Picard", "Jacobi", "TrustRegion", "LevenbergMarquardt"}


def test_a_trust_region_in_a_window_does_not_measure_rows_that_mates_have_brought_along():
    """Chaotic and mixing, but elementwise in the batch, so that nothing rounds differently: equal to the bit."""
    generator = torch.Generator().manual_seed(1)
    weight, s0, inputs = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 5), (3, 5), (60, 3, 5))
    )

    def f(s, u):
        return torch.tanh(sum(s[..., k : k + 1] * weight[:, k] for k in range(5)) + u)

    def solved(s0, inputs):
        return li.solve(f, s0, inputs, li.TrustRegion(li.Newton()), window=16, max_iters=30, throw=False)

    together = solved(s0, inputs)
    for mate in range(3):
        alone = solved(s0[mate], inputs[:, mate])
        assert int(together.iterations[mate]) == int(alone.iterations)
        assert torch.equal(together.states[:, mate], alone.states)
