"""Iteration counts of the literature, the quick ones. `python -m bench.counts` measures the whole table."""

import json
from itertools import permutations

import pytest
import torch

import lds_iter as li
from bench.common import problems
from bench.counts import measure as counts
from bench.counts.__main__ import JSON, PAGE
from bench.counts.page import page
from lds_iter.derivatives.autodiff import FunctionDerivatives


def needed(problem, method, guess, rule, atol, limit=None):
    """Updates until a source's rule holds."""
    watched = counts.Watched(method)
    li.solve(*problem, watched, guess=guess, rtol=0, atol=atol, max_iters=limit, throw=False)
    return rule.needed(watched.log)


def test_threefry_draws_the_numbers_of_jax():
    # From jax 0.10.2: keys jr.split(jr.PRNGKey(seed), 5)[i]; float32 numbers differ by erfinv's rounding alone.
    key = problems.Threefry.seeded(0)
    uniform = key.split(0).uniform((3,), 0, 1, torch.float64)
    torch.testing.assert_close(uniform, torch.tensor([0.969948, 0.31518186, 0.66109639]).double(), rtol=0, atol=1e-6)
    normal = key.split(3).normal((3,), torch.float32)
    torch.testing.assert_close(normal, torch.tensor([-0.6219436, 0.6248041, 1.6820775]), rtol=1e-6, atol=0)
    assert problems.Threefry.seeded(7).split(0).integers((5,), 120).tolist() == [59, 66, 117, 57, 85]


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.Jacobi()], ids=counts.label)
def test_watching_changes_nothing(method, monkeypatch):
    monkeypatch.setenv(
        "LDS_ITER_CPU_KERNELS", "0"
    )  # a method that is watched goes by the loop, which rounds differently
    problem = problems.orthogonal_gru(4, 500)
    plain = li.solve(*problem, method)
    watched = li.solve(*problem, counts.Watched(method))
    assert torch.equal(plain.iterations, watched.iterations)
    assert torch.equal(plain.states, watched.states)


@pytest.mark.parametrize(("width", "length"), [(1, 1_000), (4, 1_000), (16, 1_000), (64, 1_000), (4, 10_000)])
def test_gru_by_the_rule_of_deer(width, length):
    """Ranges of the source, over widths and lengths; the draws are ours, so quasi-Newton gets one more."""
    problem, rule = problems.orthogonal_gru(width, length), counts.Rule("movement", 1e-4, 1)
    ranges = {li.Newton(): (4, 5), li.QuasiNewton(): (4, 5) if width == 1 else (10, 13)}
    if width > 1:  # the memory of one random unit alone is anything: 12 to 39 over three seeds
        ranges[li.Jacobi()] = (23, 38)
    for method, (low, high) in ranges.items():
        count = int(needed(problem, method, li.repeat_initial, rule, atol=1e-7, limit=60)) + 1
        assert low <= count <= high, method


def test_gru_picard_gains_next_to_nothing():
    """A GRU is far from the identity: Picard needs most of the T iterations that always suffice."""
    solution = li.solve(*problems.orthogonal_gru(4, 1_000), li.Picard(), rtol=0, atol=1e-5)
    assert 700 <= int(solution.iterations) <= 1_000


@pytest.mark.parametrize("width", [4, 64])
def test_torch_gru(width):
    """The source counts the verifying iteration: Newton 4-5 and quasi 9-10 there are 3-4 and 7-9 updates."""
    problem = problems.default_gru(width, 10_000 if width == 4 else 2_000)
    truth = li.sequential(*problem)
    for method, low, high in (li.Newton(), 3, 4), (li.QuasiNewton(), 7, 9):
        solution = li.solve(*problem, method, rtol=0, atol=1e-5)
        assert low <= int(solution.iterations) <= high
        # The residual bounds the error up to the memory of the network, a few steps at initialisation.
        assert (solution.states - truth).abs().max() < 1e-4


def iterations_of_the_diagonal(words):
    """What exact arithmetic gives: each move off the diagonal costs an iteration, along the longest chain of moves.

    `depth[i]` is the iteration from which coordinate i of the current row is exact. A fixed point of the permutation
    passes it on within the same scan, any other coordinate takes over its source's a scan later.
    """
    orders, depth, longest = list(permutations(range(5))), [0] * 5, 0
    for word in words.tolist():
        order = orders[word]
        depth = [max(1, depth[i]) if order[i] == i else depth[order[i]] + 1 for i in range(5)]
        longest = max(longest, *depth)
    return longest


@pytest.mark.parametrize("seed", [0, 1])
def test_word_problem(seed):
    length = 500
    problem = problems.word_problem(length, seed, torch.arange(1.0, 6.0).unsqueeze(-1))
    solve = {
        method: li.solve(*problem, method, guess=problems.normal_guess(seed), rtol=0, atol=1e-5)
        for method in (li.Newton(), li.QuasiNewton(), counts.ONE_PROBE, li.Picard(), li.Jacobi())
    }
    assert int(solve[li.Newton()].iterations) == 1  # f is linear in the state
    assert int(solve[li.Jacobi()].iterations) == length  # the guess is wrong everywhere and nothing contracts
    assert int(solve[li.QuasiNewton()].iterations) == iterations_of_the_diagonal(problem.inputs)
    # Both overflow on the way, so only the frontier advances: a row an iteration, and for an identity word one more.
    assert 0.96 * length <= int(solve[counts.ONE_PROBE].iterations) <= length
    assert 0.97 * length <= int(solve[li.Picard()].iterations) <= length
    truth = li.sequential(*problem)
    for solution in solve.values():
        torch.testing.assert_close(solution.states, truth, rtol=0, atol=1e-4)


def test_running_product_in_one_newton_iteration():
    problem = problems.word_problem(300)
    solution = li.solve(*problem, guess=problems.normal_guess(0), rtol=0, atol=1e-5)
    assert int(solution.iterations) == 1
    torch.testing.assert_close(solution.states, li.sequential(*problem), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("gain", "method", "figure", "slack"),
    [
        (0.5, li.Newton(), 3, 0),
        (0.8, li.Newton(), 4, 0),
        (1.0, li.Newton(), 7, 0),
        (1.2, li.Newton(), 32, 1),  # the edge of chaos: rounding, which differs between processors, may shift it
        (0.5, li.QuasiNewton(), 19, 0),
        (0.8, li.QuasiNewton(), 63, 0),
        (1.0, li.QuasiNewton(), 939, 2),
    ],
)
def test_mean_field_rnn(gain, method, figure, slack):
    """The source's network, drive, guess and rule, to the number: the same updates to a mean merit of 1e-10."""
    rule = counts.Rule("mean_merit", 1e-10, 0)
    count = int(needed(problems.mean_field_rnn(gain), method, problems.uniform_guess(0), rule, atol=1e-8))
    assert abs(count - figure) <= slack


def test_mean_field_quasi_newton_is_jacobi():
    problem = problems.mean_field_rnn(0.5)
    quasi, jacobi = (li.solve(*problem, method, rtol=0, atol=1e-6) for method in (li.QuasiNewton(), li.Jacobi()))
    assert torch.equal(quasi.iterations, jacobi.iterations)
    assert torch.equal(quasi.states, jacobi.states)


def test_mean_field_derivatives_are_those_of_autodiff():
    problem = problems.mean_field_rnn(1.2, width=6, length=5)
    s, v = torch.randn(2, 5, 6, dtype=torch.float64)
    own, reference = problem.f.linearize(s, problem.inputs), FunctionDerivatives(problem.f, s, problem.inputs)
    for name, arguments in ("jvp", (v,)), ("vjp", (v,)), ("jacobian", ()), ("diagonal", ()), ("block_diagonal", (2,)):
        torch.testing.assert_close(getattr(own, name)(*arguments), getattr(reference, name)(*arguments), msg=name)
    assert torch.equal(own.value, reference.value)


def test_langevin_on_a_mixture():
    """Next to the identity: two or three updates to the source's merit, and an error that the residual hides."""
    problem, guess, rule = problems.mixture_langevin(), problems.normal_guess(0), counts.Rule("merit", 5e-4, 1)
    truth = li.sequential(*problem)
    for method in li.Newton(), counts.ONE_PROBE, li.Picard():
        count = int(needed(problem, method, guess, rule, atol=1e-7, limit=6))
        assert 3 <= count + 1 <= 5
        solution = li.solve(*problem, method, guess=guess, rtol=0, atol=0, max_iters=count, throw=False)
        error, estimate = (solution.states - truth).abs().max(), solution.error_estimate().abs().max()
        # The dynamics are nearly linear this close, so the first-order estimate is the error, up to its own rounding.
        torch.testing.assert_close(estimate, error, rtol=0.05, atol=1e-5)
        if not isinstance(method, li.Newton):
            assert error > 50 * float(solution.residual.max())


def test_two_wells():
    """The source's range over its noise seeds, each seed at its own count."""
    problem, rule = problems.two_well_langevin(seeds=4), counts.Rule("mean_merit", 1e-10, 1)
    count = needed(problem, li.Newton(), problems.two_well_guess, rule, atol=1e-7) + 1
    assert bool(((count >= 10) & (count <= 40)).all())


def test_page_is_made_from_the_results():
    assert PAGE.read_text() == page(json.loads(JSON.read_text()))
