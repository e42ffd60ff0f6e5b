"""The loop: what it reports, what it survives, and what it does not do."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, Noise, elementwise, loop, tanh_rnn
from hypothesis import given
from hypothesis import strategies as st
from problems import CLOSE, problem

import lds_iter as li
from lds_iter.linear import registry
from lds_iter.loop import tiles

SOME = [li.Newton(), li.QuasiNewton(), li.Picard(), li.Jacobi(), Noise()]
WINDOWS = [None, 1, 7, 30]


def true_residual(f, s0, u, states):
    return (f(torch.cat([s0[None], states[:-1]]), u) - states).abs().amax((0, -1))


@pytest.mark.parametrize("method", SOME, ids=repr)
@given(iterations=st.integers(0, 6), seed=st.integers(0, 5))
def test_everything_returned_belongs_to_the_same_iterate(method, iterations, seed):
    """The residual is that of the states returned, not of the iterate before; so are count, history and code."""
    s0, u = problem(20, (3,), seed=seed)
    solution = li.solve(elementwise, s0, u, method, max_iters=iterations, throw=False, record=True, rtol=0.0, atol=1e-9)
    expected = true_residual(elementwise, s0, u, solution.states)
    torch.testing.assert_close(solution.residual, expected, rtol=1e-12, atol=1e-14)
    assert solution.converged == bool((expected <= 1e-9).all())
    history = solution.history
    assert torch.equal(history.residual[-1], solution.residual)
    torch.testing.assert_close(history.residual_map[-1].amax(0), solution.residual, rtol=0, atol=1e-14)
    assert history.residual.shape[0] == history.residual_map.shape[0] == int(solution.iterations.max()) + 1
    assert history.residual_map.shape == (len(history.residual), 20, 3)


@pytest.mark.parametrize("method", SOME, ids=repr)
def test_more_iterations_never_count_less(method):
    """`max_iters=k` stops at the k-th iterate of the unlimited solve, and k is what it took."""
    s0, u = problem(30)
    full = li.solve(elementwise, s0, u, method, record=True)
    for k in range(int(full.iterations) + 1):
        part = li.solve(elementwise, s0, u, method, max_iters=k, throw=False)
        assert int(part.iterations) == k
        assert torch.equal(part.residual, full.history.residual[k])
        assert part.converged == (k == int(full.iterations))


@pytest.mark.parametrize("window", WINDOWS)
def test_residual_of_a_windowed_solve_is_that_of_its_states(window):
    s0, u = problem(200, (2,))
    solution = li.solve(elementwise, s0, u, li.QuasiNewton(), window=window)
    torch.testing.assert_close(
        solution.residual, true_residual(elementwise, s0, u, solution.states), rtol=1e-9, atol=1e-15
    )


def test_a_window_of_one_is_the_python_loop():
    s0, u = problem(50, (2,))
    solution = li.solve(elementwise, s0, u, li.Newton(), window=1, rtol=0, atol=0)
    assert torch.equal(solution.states, loop(elementwise, s0, u))
    assert torch.equal(solution.evaluations, torch.full((2,), 50))


def test_a_window_bounds_the_rows_per_evaluation_and_the_wasted_work():
    s0, u = problem(400, (), 4)
    f = tanh_rnn(4, 1.3)
    calls = []

    def counted(s, inputs):
        calls.append(s.shape[0])
        return f(s, inputs)

    whole = li.solve(counted, s0, u, li.QuasiNewton())
    calls.clear()
    windowed = li.solve(counted, s0, u, li.QuasiNewton(), window=32)
    assert max(calls) <= 32
    assert windowed.evaluations < whole.evaluations
    torch.testing.assert_close(windowed.states, loop(f, s0, u), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tile", [1, 3, 16, 10_000])
@pytest.mark.parametrize("name", [*METHODS, *ADVERSARIES])
def test_tiles_on_a_cpu_change_nothing_but_rounding(name, tile, monkeypatch):
    s0, u = problem(45, (2,))
    f = tanh_rnn(4)
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 4 * tile)
    solution = li.solve(f, s0, u, {**METHODS, **ADVERSARIES}[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.states, loop(f, s0, u), **CLOSE)


def test_rows_are_accepted_at_rounding_level_not_at_the_tolerance():
    """On an expanding system rows frozen at the tolerance would carry errors of the size of tolerance times growth."""
    s0, u = problem(120, (), 8, dtype=torch.float32)
    f = tanh_rnn(8, 1.6, torch.float32)
    solution = li.solve(f, s0, u, li.Newton(), record=True, rtol=0, atol=1e-2)
    accepted = int(solution.history.accepted[-1])
    torch.testing.assert_close(solution.states[:accepted], loop(f, s0, u)[:accepted], rtol=1e-3, atol=1e-3)


def test_non_finite_proposals_are_replaced_and_counted():
    s0, u = problem(30, (2,))
    solution = li.solve(elementwise, s0, u, ADVERSARIES["poison"])
    assert solution.converged
    assert (solution.resets > 0).all()
    # NaN in every proposed row means that every step is the Jacobi step.
    jacobi = li.solve(elementwise, s0, u, li.Jacobi())
    assert torch.equal(solution.iterations, jacobi.iterations)
    assert torch.equal(jacobi.resets, torch.zeros(2, dtype=torch.int64))


def test_overflow_of_f_far_from_the_solution_is_survived():
    """From a bad guess `f` itself overflows; from the true states it does not."""
    _s0, u = problem(40, (), 2, dtype=torch.float32)
    f = lambda s, u: torch.sin(u) + 0.1 * s * torch.exp(s.square() * 30 - 60)  # noqa: E731
    guess = torch.full((40, 2), 50.0)
    assert not f(guess, u).isfinite().all()
    solution = li.solve(f, torch.zeros(2), u, li.Newton(), guess=guess)
    torch.testing.assert_close(solution.states, loop(f, torch.zeros(2), u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("method", SOME, ids=repr)
def test_a_trajectory_that_itself_overflows_fails_with_its_code_and_its_prefix(method, window):
    s0, u = torch.full((2, 1), 2.0), torch.ones(30, 2, 1)
    f = lambda s, u: torch.stack([s[..., 0, :] ** 3, 0.5 * s[..., 1, :]], -2) + 0 * u  # noqa: E731
    truth = loop(f, s0, u)
    finite = int(truth[:, 0].isfinite().sum())
    with pytest.raises(li.SolveError, match="from an exact state") as caught:
        li.solve(f, s0, u, method, window=window)
    solution = caught.value.solution
    assert solution.result.tolist() == [li.Result.NONFINITE, li.Result.SUCCESS]
    assert solution.states.isfinite().all()
    torch.testing.assert_close(solution.states[:finite, 0], truth[:finite, 0])
    torch.testing.assert_close(solution.states[:, 1], truth[:, 1], rtol=1e-4, atol=1e-4)


def test_callbacks_see_every_iterate_once_and_the_progress_bar_ends_full(capsys):
    s0, u = problem(60, (2,))
    seen = []
    solution = li.solve(elementwise, s0, u, li.Jacobi(), callback=seen.append, progress=True, record=True)
    assert [p.count for p in seen] == list(range(int(solution.iterations.max()) + 1))
    assert torch.equal(torch.stack([p.residual for p in seen]), solution.history.residual)
    assert (seen[-1].result == li.Result.SUCCESS).all()
    bar = capsys.readouterr().err
    assert "60/60" in bar
    assert f"iteration={int(solution.iterations.max())}" in bar
    assert bar.count("solve:") == bar.count("\r")  # one bar, redrawn in place


def test_history_marks_what_a_window_has_not_seen():
    s0, u = problem(40)
    history = li.solve(elementwise, s0, u, li.QuasiNewton(), window=10, record=True).history
    assert history.residual_map[0, :10].isfinite().all()
    assert history.residual_map[0, 10:].isnan().all()
    assert history.residual_map[-1].isfinite().all()
    assert (history.accepted.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_estimate_sees_what_the_residual_hides(dtype):
    """Near the identity a residual of 1e-4 hides an error a hundred times as large; one more scan finds it."""
    s0, u = problem(1000, (2,), 3, dtype=dtype)
    f = lambda s, u: s + 1e-3 * (u - torch.tanh(s))  # noqa: E731
    solution = li.solve(f, s0, u, li.Picard(), rtol=0, atol=1e-4)
    error = loop(f, s0, u) - solution.states
    assert error.abs().max() > 20 * solution.residual.max()
    torch.testing.assert_close(solution.error_estimate(), error, rtol=0.05, atol=float(error.abs().max()) * 0.02)
    diagonal = solution.error_estimate(li.QuasiNewton())
    torch.testing.assert_close(diagonal, solution.error_estimate(), rtol=1e-2, atol=1e-5)


def test_zero_tolerance_means_bitwise_self_consistency_of_the_batched_f():
    s0, u = problem(300, (2,), 8, dtype=torch.float32)
    f = tanh_rnn(8, dtype=torch.float32)
    solution = li.solve(f, s0, u, li.Newton(), rtol=0, atol=0)
    assert torch.equal(f(torch.cat([s0[None], solution.states[:-1]]), u), solution.states)


def test_the_tolerance_is_that_of_allclose():
    s0, u = problem(50, (), 3)
    u = u * torch.tensor([1.0, 100.0, 1e4], dtype=torch.float64)
    f = lambda s, u: 0.5 * s + u + torch.sin(s)  # noqa: E731
    for rtol, atol in (1e-3, 0.0), (0.0, 1e-3), (1e-6, 1e-6):
        solution = li.solve(f, s0, u, li.Jacobi(), rtol=rtol, atol=atol)
        value = f(torch.cat([s0[None], solution.states[:-1]]), u)
        assert torch.allclose(solution.states, value, rtol=rtol, atol=atol)
        before = li.solve(
            f, s0, u, li.Jacobi(), rtol=rtol, atol=atol, throw=False, max_iters=int(solution.iterations) - 1
        )
        value = f(torch.cat([s0[None], before.states[:-1]]), u)
        assert not torch.allclose(before.states, value, rtol=rtol, atol=atol)


def test_a_stateful_method_keeps_its_carry():
    """A Jacobian kept from the first iteration (a chord method), written by a user with a carry."""

    @dataclass(frozen=True)
    class Chord(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            carry = li.Dense(lin.jacobian()) if carry is None else carry
            return lin.scan(carry, lin.residual), carry

    s0, u = problem(60, (2,))
    f = tanh_rnn(4)
    solution = li.solve(f, s0, u, Chord(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.states, loop(f, s0, u), **CLOSE)
    newton = li.solve(f, s0, u, li.Newton(), rtol=1e-12, atol=1e-12)
    assert newton.iterations.max() < solution.iterations.max() < 60


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("method", ["plain", "damped"])
def test_a_scan_registered_for_a_users_structure_serves_in_solve(batch, method, monkeypatch):
    """Once the structure can scale itself, neither the cut at the frontier nor damping hides it."""
    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))
    calls = []

    @dataclass(frozen=True)
    class Mine(li.AbstractTransition):
        diagonal: torch.Tensor

        def mv(self, x):
            return self.diagonal * x

        def after(self, earlier):
            return Mine(self.diagonal * earlier.diagonal)

        def transpose(self):
            return self

        def scaled(self, factor):
            return Mine(li.linear.times(factor, self.diagonal))

    @li.register_scan(Mine, "cpu")
    def scan(transition, x, initial):
        calls.append(x.shape)
        li.reference_scan(transition, x, initial)

    class Diagonals(li.TransitionApproximation):
        def transition(self, lin):
            return Mine(lin.diagonal())

    s0, u = problem(40, batch)
    f = tanh_rnn(4)
    ours = li.Damped(Diagonals(), 0.1) if method == "damped" else Diagonals()
    theirs = li.Damped(li.QuasiNewton(), 0.1) if method == "damped" else li.QuasiNewton()
    solution, same = li.solve(f, s0, u, ours), li.solve(f, s0, u, theirs)
    assert len(calls) == int(solution.iterations.max())
    assert torch.equal(solution.iterations, same.iterations)
    torch.testing.assert_close(solution.states, same.states, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [3, 7, None])
def test_a_carry_per_sequence_stays_independent_of_mates_that_rest(window):
    """A method that adapts a damping per sequence, and leaves those that rest alone, as `lin.active` tells it."""

    @dataclass(frozen=True)
    class Adaptive(li.LDSApproximation):
        def init(self, guess):
            return torch.full(guess.shape[1:-1], 0.8, dtype=guess.dtype)

        def update(self, lin, carry):
            d = lin.scan(li.Diagonal(lin.diagonal()).scaled(1 - carry[None, ..., None]), lin.residual)
            return d, torch.where(lin.active, carry / 2, carry)

    s0, u = problem(40, (3,))
    rate = torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64)[:, None]
    together = li.solve(lambda s, u: rate * torch.sin(s) + u, s0, u, Adaptive(), window=window)
    for mate in range(3):
        alone = li.solve(
            lambda s, u, m=mate: rate[m] * torch.sin(s) + u, s0[mate], u[:, mate], Adaptive(), window=window
        )
        assert alone.iterations == together.iterations[mate]
        assert torch.equal(alone.states, together.states[:, mate])


def test_a_method_that_proposes_the_wrong_shape_is_told_so():
    class Wrong(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            return lin.residual[..., :1], carry

    s0, u = problem(5)
    with pytest.raises(ValueError, match=r"Wrong.update. must propose an update like the residual"):
        li.solve(elementwise, s0, u, Wrong())


def test_the_guess_is_left_alone_and_solutions_share_no_memory():
    s0, u = problem(20, (2,))
    guess = torch.randn(20, 2, 4, dtype=torch.float64)
    before = guess.clone()
    first, second = li.solve(elementwise, s0, u, guess=guess), li.solve(elementwise, s0, u, guess=guess)
    first.states.zero_()
    assert torch.equal(guess, before)
    assert second.states.abs().max() > 0


@pytest.mark.parametrize("guess", [li.repeat_initial, li.step_from_zero, lambda f, s0, u, n: s0 + torch.zeros(n, 2, 4)])
def test_guess_policies(guess):
    s0, u = problem(30, (2,))
    start = guess(elementwise, s0, u, 30)
    assert start.shape == (30, 2, 4)
    solution = li.solve(elementwise, s0, u, li.Jacobi(), guess=guess, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.states, loop(elementwise, s0, u), **CLOSE)
    assert torch.equal(li.repeat_initial(elementwise, s0, u, 30), s0.expand(30, 2, 4))
    assert torch.equal(li.step_from_zero(elementwise, s0, u, 30), u)


def test_a_solution_can_be_pickled_and_made_light():
    s0, u = problem(20, (2,))
    solution = li.solve(elementwise, s0, u, li.QuasiNewton(), record=True)
    for other in pickle.loads(pickle.dumps(solution)), solution.light():
        assert torch.equal(other.states, solution.states)
        assert torch.equal(other.history.residual, solution.history.residual)
        with pytest.raises(RuntimeError, match="no inputs to estimate"):
            other.error_estimate()
    assert solution.error_estimate().abs().max() < 1e-8


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.TrustRegion(li.Newton())], ids=repr)
def test_states_so_large_that_f_overflows_are_started_again(method):
    """Left as they are, they would stay until the frontier reaches them, T iterations later."""
    inputs = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s0 = torch.zeros(2, dtype=torch.float64)

    def cubic(s, u):
        return 0.9 * s - 0.1 * s**3 + 0.1 * u

    solution = li.solve(cubic, s0, inputs, method, guess=torch.full((200, 2), 1e200, dtype=torch.float64))
    assert solution.iterations < 50
    assert solution.resets >= 199
    torch.testing.assert_close(solution.states, li.sequential(cubic, s0, inputs), rtol=1e-8, atol=1e-8)
