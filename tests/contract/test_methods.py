"""The contract of every method, the user's own included: the laws of `lds_iter.testing` on random problems."""

import inspect
from dataclasses import dataclass

import pytest
import torch
from catalogue import (
    ADVERSARIES,
    METHODS,
    ROUND_WITH_THE_BATCH,
    SCANS_IN_BFLOAT16,
    Noise,
    RandomTransition,
    elementwise,
    loop,
    tanh_rnn,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BATCHES, CLOSE, EXACT, TIGHT, problem

import lds_iter as li
from lds_iter.testing import check_method, method_laws

EVERY = {**METHODS, **ADVERSARIES}
OTHER_LAWS = [method_laws.rows_stand_alone, method_laws.repeats_itself, method_laws.has_the_gradient]


def public_method_classes():
    return {
        cls
        for cls in vars(li).values()
        if inspect.isclass(cls) and issubclass(cls, li.LDSApproximation) and not inspect.isabstract(cls)
    }


def test_every_method_is_in_the_catalogue():
    def classes(method):
        parts = [value for value in vars(method).values() if isinstance(value, li.LDSApproximation)]
        return {type(method)}.union(*[classes(part) for part in parts])

    assert public_method_classes() <= set().union(*[classes(method) for method in METHODS.values()])


@pytest.mark.parametrize("cls", sorted(public_method_classes(), key=lambda cls: cls.__name__))
def test_methods_are_final_frozen_and_documented(cls):
    assert not [sub for sub in cls.__subclasses__() if sub.__module__.startswith("lds_iter")]
    assert cls.__dataclass_params__.frozen
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("name", EVERY)
@given(length=st.integers(1, 24), batch=BATCHES, seed=st.integers(0, 9), data=st.data())
def test_equals_the_loop_in_at_most_t_iterations_for_any_window(name, length, batch, seed, data):
    window = data.draw(st.one_of(st.none(), st.integers(1, length + 2)), label="window")
    f, (s0, u) = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed)
    check_method(EVERY[name], f, s0, u, windows=(window,), laws=(method_laws.trajectory,))


@pytest.mark.parametrize("name", EVERY)
@given(length=st.integers(2, 24), seed=st.integers(0, 9))
def test_the_prefix_is_exact_after_k_iterations(name, length, seed):
    f, (s0, u) = tanh_rnn(4, gain=1.5, seed=seed), problem(length, (2,), seed=seed)
    check_method(EVERY[name], f, s0, u, laws=(method_laws.exact_prefix,))


@given(length=st.integers(2, 24), batch=BATCHES, seed=st.integers(0, 9))
def test_a_random_transition_takes_exactly_t_iterations(length, batch, seed):
    f, (s0, u), method = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed), RandomTransition(seed)
    solution = li.solve(f, s0, u, method, **EXACT)
    assert torch.equal(solution.iterations, torch.full(batch, length))
    assert torch.equal(solution.residual, torch.zeros(batch, dtype=torch.float64))
    short = li.solve(f, s0, u, method, max_iters=length - 1, throw=False, **EXACT)
    assert torch.equal(short.result, torch.full(batch, int(li.Result.MAX_ITERS)))
    assert short.residual.min() > 0


@pytest.mark.parametrize("name", EVERY)
@given(length=st.integers(1, 24), batch=BATCHES, seed=st.integers(0, 9), window=st.sampled_from([None, 1, 3]))
def test_a_correct_guess_takes_no_iteration(name, length, batch, seed, window):
    f, (s0, u) = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed)
    check_method(EVERY[name], f, s0, u, windows=(window,), laws=(method_laws.leaves_a_solution,), seed=seed)


@given(length=st.integers(1, 40), batch=BATCHES, seed=st.integers(0, 9))
def test_newton_solves_an_affine_recurrence_in_one_iteration(length, batch, seed):
    s0, u = problem(length, batch, seed=seed)
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 3
    solution = li.solve(lambda s, u: s @ matrix.T + u, s0, u, li.Newton())
    assert solution.iterations.max() == 1
    torch.testing.assert_close(solution.states, loop(lambda s, u: s @ matrix.T + u, s0, u), **CLOSE)


@given(length=st.integers(1, 40), batch=BATCHES, seed=st.integers(0, 9))
def test_quasi_newton_is_newton_for_an_elementwise_recurrence(length, batch, seed):
    s0, u = problem(length, batch, seed=seed)
    newton = li.solve(elementwise, s0, u, li.Newton())
    for method in li.QuasiNewton(), li.BlockNewton(1), li.BlockNewton(2), li.QuasiNewton(li.Hutchinson()):
        other = li.solve(elementwise, s0, u, method)
        assert torch.equal(newton.iterations, other.iterations), method
        torch.testing.assert_close(newton.states, other.states, **CLOSE)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "noise"])  # its noise depends on the batch's shape
@settings(max_examples=10)
@given(length=st.integers(1, 40), seed=st.integers(0, 9), window=st.sampled_from([None, 1, 4, 9, 25]))
def test_batch_mates_never_influence_each_other(name, length, seed, window):
    """Counts, codes, residuals and, for an elementwise recurrence, states to the bit; also when a mate fails."""
    if window is not None and name in SCANS_IN_BFLOAT16:
        window = None  # the rows at hand depend on the batch there, and so does how a scan in eight bits rounds
    mates = 1e-12 if name in ROUND_WITH_THE_BATCH else 0.0
    f, (s0, u) = tanh_rnn(4, seed=seed), problem(length, (4,), seed=seed)
    laws = (method_laws.keeps_the_batch_apart,)
    check_method(EVERY[name], f, s0, u, windows=(window,), mates=mates, laws=laws, seed=seed)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "law", [method_laws.rows_stand_alone, method_laws.repeats_itself, method_laws.has_the_gradient]
)
@settings(max_examples=2)
@given(length=st.integers(2, 24), batch=BATCHES, seed=st.integers(0, 9))
def test_rows_repetition_and_gradients(name, law, length, batch, seed):
    f, (s0, u) = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed)
    check_method(EVERY[name], f, s0, u, windows=(None, 5), laws=(law,), seed=seed)


@pytest.mark.parametrize("gain", [1.5, 1.8, 2.5])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.Picard(), li.Jacobi(), Noise()], ids=repr)
def test_chaos_in_float32_ends_at_residual_zero_within_t_iterations(gain, method):
    """Where the state form `s = A s + b` ends at residuals of 1 to 1e4, the update form ends at exactly 0."""
    s0, u = problem(512, (), 32, dtype=torch.float32)
    f = tanh_rnn(32, gain, torch.float32)
    calls = []

    def watched(s, inputs):
        calls.append(f(s, inputs))
        return calls[-1]

    solution = li.solve(watched, s0, u, method, **EXACT)
    assert solution.converged
    assert solution.iterations <= 512
    assert solution.residual == 0
    # The loop's own last evaluation returns the states bit for bit up to the row that the last iteration accepted.
    assert torch.equal(calls[-1][:-1], solution.states[:-1]) or solution.iterations == 512


@given(seed=st.integers(0, 9))
def test_then_gives_every_row_its_turn_with_the_first_method(seed):
    """In a window, `Then(Jacobi, Newton, k)` is Jacobi for rows that have just entered and Newton for the others."""
    s0, u = problem(40, (2,), seed=seed)
    f = tanh_rnn(4, seed=seed)
    never, always = li.Then(li.Jacobi(), li.Newton(), 0), li.Then(li.Newton(), li.Jacobi(), 10_000)
    newton = li.solve(f, s0, u, li.Newton(), window=8)
    for method in never, always:
        same = li.solve(f, s0, u, method, window=8)
        assert torch.equal(same.iterations, newton.iterations)
        assert torch.equal(same.states, newton.states)
    mixed = li.solve(f, s0, u, li.Then(li.Jacobi(), li.Newton(), 2), window=8)
    torch.testing.assert_close(mixed.states, newton.states, rtol=1e-9, atol=1e-9)


def test_the_ten_line_method_of_the_design_works():
    @dataclass(frozen=True)
    class Relaxed(li.TransitionApproximation):
        """Picard with a leak."""

        leak: float = 0.1

        def transition(self, lin):
            return li.ScaledIdentity(1 - self.leak)

    s0, u = problem(50)
    f = tanh_rnn(4)
    torch.testing.assert_close(li.solve(f, s0, u, Relaxed(0.3), **TIGHT).states, loop(f, s0, u), **CLOSE)
    assert torch.equal(
        li.solve(f, s0, u, Relaxed(0.25)).states, li.solve(f, s0, u, li.Damped(li.Picard(), 0.25)).states
    )


def test_a_few_jacobi_sweeps_rescue_newton_from_a_bad_guess():
    """A fast-forgetting recurrence, whose Jacobian far from the solution expands: Newton alone overshoots."""
    s0, u = problem(400, (), 2)
    f = lambda s, u: 0.3 * torch.sin(5 * s) + u  # noqa: E731
    guess = torch.zeros(400, 2, dtype=torch.float64)
    alone = li.solve(f, s0, u, li.Newton(), guess=guess, throw=False, max_iters=400)
    warm = li.solve(f, s0, u, li.Then(li.Jacobi(), li.Newton(), 12), guess=guess)
    assert warm.iterations < alone.iterations


@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_estimates_the_diagonal_without_bias(probes):
    """Over many seeds the mean approaches the diagonal at the rate of Monte Carlo, and one seed repeats itself."""
    matrix = torch.randn(6, 6, dtype=torch.float64)
    seen = []

    @dataclass(frozen=True)
    class Spy(li.TransitionApproximation):
        seed: int

        def transition(self, lin):
            seen.append(li.Hutchinson(probes, self.seed)(lin))
            return li.Zero()

    s0, u = problem(200, (2,), 6)
    for seed in (*range(40), 0):
        li.solve(lambda s, u: s @ matrix.T + u, s0, u, Spy(seed), max_iters=1, throw=False)
    assert torch.equal(seen[0], seen[-1])
    assert torch.equal(seen[0][:, 0], seen[0][:, 1])
    mean = torch.cat(seen[:-1]).mean((0, 1))
    # 8000 draws of variance at most sum_j J_ij^2 / probes: five standard errors.
    spread = (matrix**2).sum(1).sqrt() * 5 / (8000 * probes) ** 0.5
    assert ((mean - matrix.diagonal()).abs() < spread).all()
