"""Lyapunov exponents, conditioning, rates, predicted counts and reports, against closed forms and dense algebra."""

import math

import pytest
import torch
from catalogue import METHODS, tanh_rnn
from hypothesis import given
from hypothesis import strategies as st

import lds_iter as li
from lds_iter import diagnostics as d

DOUBLE = torch.float64
TRANSITIONS = {name: method for name, method in METHODS.items() if isinstance(method, li.TransitionApproximation)}


def linear(matrix):
    return lambda s, u: s @ matrix.T + u


def henon(s, u):
    x, y = s.unbind(-1)
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], -1)


def triangular(eigenvalues, generator=None):
    """A matrix that is not normal, with these eigenvalues."""
    matrix = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=DOUBLE).triu(1)
    return matrix + torch.diag(torch.tensor(eigenvalues, dtype=DOUBLE))


def residual_jacobian(jacobians):
    """`I - J L` in full, for `(n, D, D)`."""
    n, width = jacobians.shape[:2]
    matrix = torch.eye(n * width, dtype=DOUBLE)
    for t in range(1, n):
        matrix[t * width : (t + 1) * width, (t - 1) * width : t * width] = -jacobians[t]
    return matrix


@pytest.mark.parametrize("by", [d.ByScan(), d.StepByStep()], ids=["scan", "steps"])
def test_spectrum_of_a_constant_matrix_is_the_logarithm_of_its_eigenvalues(by):
    eigenvalues = [1.1, -0.9, 0.5, 0.1]
    found = d.lyapunov(
        linear(triangular(eigenvalues)),
        torch.zeros(4, dtype=DOUBLE),
        torch.zeros(600, 4, dtype=DOUBLE),
        exponents=4,
        by=by,
        discard=200,
    )
    # Directions align with the ratio of neighbouring eigenvalues: (0.9 / 1.1)^200 = 4e-18.
    torch.testing.assert_close(found.exponents, torch.tensor(eigenvalues, dtype=DOUBLE).abs().log(), rtol=0, atol=1e-12)
    assert (found.error < 1e-12).all()
    assert found.steps == 400


@pytest.mark.parametrize("by", [d.ByScan(), d.StepByStep()], ids=["scan", "steps"])
def test_orthogonal_matrices_have_zero_exponents(by):
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=DOUBLE))[0]
    found = d.lyapunov(linear(turn), torch.ones(5, dtype=DOUBLE), torch.zeros(700, 5, dtype=DOUBLE), exponents=5, by=by)
    assert found.exponents.abs().max() < 1e-14  # rounding of a QR step, averaged
    assert not found.chaotic or found.largest < 1e-14


def test_henon_to_published_digits():
    """0.41922 and log 0.3 - 0.41922 (Sprott, "Chaos and time-series analysis", 2003)."""
    s0, inputs = torch.tensor([0.1, 0.1], dtype=DOUBLE), torch.arange(40_000)
    x, states = (0.1, 0.1), []
    for _ in range(len(inputs)):
        x = (1 - 1.4 * x[0] * x[0] + x[1], 0.3 * x[0])
        states.append(x)
    states = torch.tensor(states, dtype=DOUBLE)
    found = d.lyapunov(henon, s0, inputs, states, prefix=None, exponents=2)
    assert abs(float(found.largest) - 0.41922) < 3 * float(found.error[0])
    assert found.error[0] < 0.004  # two digits, and half a third
    assert found.chaotic
    # Every step has |det J| = 0.3, so the sum is known exactly, whatever the trajectory.
    assert abs(float(found.exponents.sum()) - math.log(0.3)) < 1e-10
    assert torch.equal(found.stable, torch.tensor(False))


@given(
    seed=st.integers(0, 10_000), width=st.integers(1, 5), length=st.integers(2, 90), data=st.data(), batch=st.booleans()
)
def test_parallel_equals_step_by_step(seed, width, length, data, batch):
    f = tanh_rnn(width, gain=data.draw(st.sampled_from([0.3, 0.9, 3.0])), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    lead = (3,) if batch else ()
    s0 = torch.randn(*lead, width, generator=generator, dtype=DOUBLE)
    inputs = torch.randn(length, *lead, width, generator=generator, dtype=DOUBLE)
    count = data.draw(st.integers(1, width))
    blocks = data.draw(st.integers(1, 4))
    scan, steps = (
        d.lyapunov(f, s0, inputs, exponents=count, by=by, blocks=blocks) for by in (d.ByScan(), d.StepByStep())
    )
    # Frames are handed on when equal to 1e-10, and rounding is amplified where two exponents lie close together.
    torch.testing.assert_close(scan.exponents, steps.exponents, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(scan.blocks, steps.blocks, rtol=1e-6, atol=1e-7)
    assert scan.exponents.shape == (*lead, count)


def test_sum_of_the_spectrum_is_the_mean_log_determinant():
    f = tanh_rnn(6, gain=1.5)
    s0, inputs = torch.zeros(6, dtype=DOUBLE), 0.3 * torch.randn(500, 6, dtype=DOUBLE)
    states = li.sequential(f, s0, inputs)
    found = d.lyapunov(f, s0, inputs, states, exponents=6)
    before = torch.cat([s0[None], states[:-1]])
    jacobians = torch.func.vmap(torch.func.jacfwd(lambda s, u: f(s, u)))(before, inputs)
    expected = jacobians.det().abs().log().mean()
    torch.testing.assert_close(found.exponents.sum(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rate", [0.1, 1.9])
def test_products_of_a_million_steps_stay_in_range(rate):
    """`rate^1e6` is e^(-2.3e6) or e^(6.4e5); float64 holds e^709."""
    slopes = torch.full((1_000_000, 1, 1), rate, dtype=DOUBLE)
    matrix, scale = d.product(slopes)
    assert matrix.abs() == 1
    assert abs(float(scale) / 1e6 - math.log(rate)) < 1e-12  # rounding of a tree of depth 20


def test_a_hundred_thousand_steps_of_a_network_in_float32():
    f = tanh_rnn(2, gain=0.5, dtype=torch.float32)
    s0, inputs = torch.zeros(2), torch.randn(100_000, 2)
    solution = li.solve(f, s0, inputs)
    whole = d.lyapunov_of(solution)
    direct = d.lyapunov(f, s0, inputs, solution.states, prefix=None)
    assert whole.largest.isfinite()
    torch.testing.assert_close(whole.exponents, direct.exponents, rtol=1e-6, atol=1e-9)  # the same products
    head = d.lyapunov(f, s0, inputs, prefix=2000)
    assert abs(float(head.largest - whole.largest)) < 5 * float(head.error)


def test_annihilated_directions_are_minus_infinity():
    found = d.lyapunov(lambda s, u: 0 * s + u, torch.zeros(2), torch.ones(50, 2), exponents=2)
    assert (found.exponents == -math.inf).all()
    assert (found.error == 0).all()
    assert found.stable


def test_batch_mates_do_not_feel_each_other():
    f = tanh_rnn(3, gain=1.2)
    s0, inputs = torch.randn(2, 3, dtype=DOUBLE), torch.randn(200, 2, 3, dtype=DOUBLE)
    both = d.lyapunov(f, s0, inputs, exponents=2)
    rates = d.contraction(f, s0, inputs, li.QuasiNewton(), prefix=40)
    mu = d.conditioning(f, s0, inputs, prefix=40)
    for mate in range(2):
        alone = s0[mate], inputs[:, mate]
        # Batched products of matrices round differently; norms are settled to 1e-6.
        torch.testing.assert_close(
            both.exponents[mate], d.lyapunov(f, *alone, exponents=2).exponents, rtol=0, atol=1e-9
        )
        own = d.contraction(f, *alone, li.QuasiNewton(), prefix=40)
        torch.testing.assert_close(rates.factor[mate], own.factor, rtol=1e-5, atol=0)
        torch.testing.assert_close(rates.inverse[mate], own.inverse, rtol=1e-5, atol=0)
        torch.testing.assert_close(mu.log_mu[mate], d.conditioning(f, *alone, prefix=40).log_mu, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.5])
def test_measured_mu_is_the_smallest_singular_value(gain):
    f = tanh_rnn(3, gain=gain)
    s0, inputs = torch.zeros(3, dtype=DOUBLE), torch.randn(40, 3, dtype=DOUBLE)
    found = d.conditioning(f, s0, inputs)
    before = torch.cat([s0[None], li.sequential(f, s0, inputs)[:-1]])
    jacobians = torch.func.vmap(torch.func.jacfwd(f))(before, inputs)
    sigma = torch.linalg.svdvals(residual_jacobian(jacobians))[-1]
    # The largest singular value of the inverse, settled to 1e-6 an iteration.
    torch.testing.assert_close(found.log_mu, 2 * sigma.log(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_contraction_against_dense_matrices(name):
    method, n, width = TRANSITIONS[name], 12, 4
    f = tanh_rnn(width, gain=1.3)
    s0, inputs = torch.zeros(width, dtype=DOUBLE), torch.randn(n, width, dtype=DOUBLE)
    found = d.contraction(f, s0, inputs, method)
    (lin,) = d.linearizations(li.solve(f, s0, inputs, atol=0, rtol=0))
    transition = method.transition(lin).dense(lin.prev).matrix
    jacobians = lin.jacobian()
    system = residual_jacobian(transition)
    missed = system - residual_jacobian(jacobians)
    inverse = torch.linalg.inv(system)
    scale = max(1.0, float(found.inverse))
    for ours, dense in (
        (found.gap, missed),
        (found.inverse, inverse),
        (found.factor, inverse @ missed),
    ):
        expected = torch.linalg.matrix_norm(dense, ord=2)
        # Norms are settled to 1e-6 an iteration; what is zero on paper is rounding.
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-12 * scale)
    assert found.factor <= found.rate * (1 + 1e-4) + 1e-12


def test_then_shows_its_second_method():
    f = tanh_rnn(4)
    problem = f, torch.zeros(4, dtype=DOUBLE), torch.randn(30, 4, dtype=DOUBLE)
    both = d.contraction(*problem, li.Then(li.Jacobi(), li.Newton(), 4))
    assert both.gap == d.contraction(*problem, li.Newton()).gap == 0


def test_counts_by_length_are_the_counts_of_shorter_solves():
    f = tanh_rnn(4, gain=1.6)
    s0, inputs = torch.zeros(2, 4, dtype=DOUBLE), torch.randn(120, 2, 4, dtype=DOUBLE)
    for method in li.Newton(), li.QuasiNewton(), li.Jacobi():
        whole = li.solve(f, s0, inputs, method, rtol=0, atol=1e-8, record=True)
        counts = d.counts_by_length(whole.history, torch.full((120, 2), 1e-8, dtype=DOUBLE))
        for length in (10, 45, 120):
            part = li.solve(f, s0, inputs[:length], method, rtol=0, atol=1e-8)
            assert torch.equal(counts[length - 1], part.iterations)


def test_predictions_of_the_whole_are_counts():
    f = tanh_rnn(4, gain=1.6)
    s0, inputs = torch.zeros(4, dtype=DOUBLE), torch.randn(100, 4, dtype=DOUBLE)
    found = d.predict_iterations(f, s0, inputs, li.QuasiNewton(), prefix=None)
    actual = li.solve(f, s0, inputs, li.QuasiNewton()).iterations
    assert found.low == found.iterations == found.high == actual
    assert found.solved


def test_predictions_tell_forgetting_from_chaos():
    inputs = torch.randn(2000, 8, dtype=DOUBLE)
    calm = d.predict_iterations(tanh_rnn(8, gain=0.6), torch.zeros(8, dtype=DOUBLE), inputs, prefix=200)
    wild = d.predict_iterations(tanh_rnn(8, gain=12.0), torch.zeros(8, dtype=DOUBLE), inputs, prefix=200)
    assert calm.share < 0.01  # a handful of iterations for 2000 steps
    assert wild.share > 0.05  # in proportion to T
    assert calm.low <= li.solve(tanh_rnn(8, gain=0.6), torch.zeros(8, dtype=DOUBLE), inputs).iterations <= calm.high


def test_an_unsolved_prefix_is_judged_by_its_front():
    inputs = torch.randn(1000, 4, dtype=DOUBLE)
    found = d.predict_iterations(
        lambda s, u: s.roll(1, -1) + u, torch.zeros(4, dtype=DOUBLE), inputs, li.Jacobi(), prefix=100, max_iters=20
    )
    assert not found.solved
    assert found.iterations > 900  # Jacobi solves one row an iteration of a rotation
    assert found.high == 1000


def test_laws_of_growth_are_told_from_counts():
    t = torch.arange(1, 1025, dtype=DOUBLE)
    logarithm, front, root = t.log2().round() + 20, 5 + (t / 4).round(), 10 * t.sqrt().round()
    counts = torch.stack([torch.full_like(t, 4), logarithm, front, root, root], -1)
    fades = torch.tensor([True, True, False, True, False])
    found = d.forecast(counts, 8192, fades, ~fades)
    assert found.law.tolist() == [
        d.GrowthLaw.SETTLED,
        d.GrowthLaw.SETTLED,
        d.GrowthLaw.LINEAR,
        d.GrowthLaw.GROWING,
        d.GrowthLaw.UNKNOWN,
    ]
    # What the laws themselves give at 8192, to the rounding of the counts.
    torch.testing.assert_close(
        found.expected[:4], torch.tensor([4, 33, 5 + 2048, 10 * 8192**0.5], dtype=DOUBLE), rtol=0.02, atol=0
    )
    assert (found.low <= found.expected).all()
    assert (found.expected <= found.high).all()
    assert found.low[-1] == counts[-1, -1]
    assert found.high[-1] == 8192


@given(seed=st.integers(0, 1000), rows=st.integers(1, 70), longer=st.integers(0, 3000), fades=st.booleans())
def test_forecasts_never_contradict_what_is_known(seed, rows, longer, fades):
    """A count never falls with the length, and never exceeds it."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 3, (rows, 2), generator=generator).clamp(max=1).cumsum(0).to(DOUBLE)
    held = torch.tensor([fades, not fades])
    found = d.forecast(counts, rows + longer, held, ~held)
    for values in found.low, found.expected, found.high:
        assert (values >= counts[-1]).all()
        assert (values <= rows + longer).all()
    assert (found.low <= found.expected).all()
    assert (found.expected <= found.high).all()


@pytest.mark.parametrize("steps", [40, 120])
def test_a_prefix_shorter_than_the_memory_is_refused(steps):
    """`s' = 0.97 sin(s) + u / 10` forgets e-fold within some 20 steps, and to 1e-10 within some 400."""
    inputs = torch.randn(20_000, 2, dtype=DOUBLE)
    problem = lambda s, u: 0.97 * torch.sin(s) + u / 10, torch.zeros(2, dtype=DOUBLE), inputs
    found = d.predict_iterations(*problem, prefix=steps)
    assert not found.told
    assert found.low == found.iterations == found.counted
    assert found.high == 20_000
    assert "at least" in str(found)
    assert f"a `prefix` of about {math.ceil(float(found.enough)):,}" in str(found)
    longer = d.predict_iterations(*problem, prefix=2 * math.ceil(float(found.enough)))
    assert longer.told
    assert longer.low <= li.solve(*problem).iterations <= longer.high


def test_neutral_systems_are_refused_without_a_suggestion():
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE))[0]
    found = d.predict_iterations(
        lambda s, u: s @ turn.T + u, torch.zeros(3, dtype=DOUBLE), torch.randn(900, 3, dtype=DOUBLE), prefix=100
    )
    assert not found.told
    assert "at least 1" in str(found)


def test_a_prediction_takes_an_exponent_that_is_known():
    """A method without derivatives is predicted for an `f` that has none."""

    def f(s, u):
        return (torch.from_numpy(s.numpy() * 0.5) + u).clone()

    problem = torch.zeros(2), torch.randn(500, 2)
    known = d.lyapunov(lambda s, u: 0.5 * s + u, *problem, prefix=200)
    found = d.predict_iterations(f, *problem, li.Jacobi(), prefix=200, exponent=known)
    assert found.told
    assert found.low <= li.solve(f, *problem, li.Jacobi()).iterations <= found.high


def test_report_reads_the_solution_alone(tmp_path):
    f = tanh_rnn(4, gain=0.8)
    s0, inputs = torch.zeros(2, 4, dtype=DOUBLE), torch.randn(300, 2, 4, dtype=DOUBLE)
    solution = li.solve(f, s0, inputs, record=True)
    found = d.report(solution)
    direct = d.lyapunov(f, s0, inputs, solution.states, blocks=40)
    torch.testing.assert_close(found.lyapunov.exponents, direct.exponents, rtol=0, atol=1e-12)
    text = str(found)
    for word in "SUCCESS", "300 steps", "2 sequences", "stable", "pays where":
        assert word in text
    for index, record in enumerate((solution, li.solve(f, s0, inputs))):
        path = tmp_path / f"{index}.png"
        d.report_picture(d.report(record), 1).savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RuntimeError, match="light"):
        d.report(solution.light())


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_uncertainty_covers_what_it_should(correlation):
    """Scalar factors with a mean logarithm of -0.05: the exponent is known, and so is how often two errors hold it.

    The mean of ten independent blocks over its standard error has Student's distribution with 9 degrees of freedom,
    which lies within two with probability 0.923; 2000 sequences say so to 0.006, and a correlation over five steps
    changes little for blocks of a hundred. Ten such deviations below is a failure.
    """
    noise = torch.randn(1000, 2000, 1, dtype=DOUBLE)
    for t in range(1, 1000):
        noise[t] += correlation * noise[t - 1]
    factors, ones = (0.3 * noise - 0.05).exp(), torch.ones(1000, 2000, 1, dtype=DOUBLE)
    found = d.lyapunov(lambda s, u: u * s, ones[0], factors, ones, prefix=None)
    covered = ((found.largest + 0.05).abs() <= 2 * found.error[..., 0]).double().mean()
    assert 0.923 - 0.06 < float(covered) < 0.923 + 0.06


def test_report_of_solves_that_failed():
    """In float32, with a sequence that blew up beside one that did not, and with none that was solved."""
    inputs = torch.tensor([0.1, 2.0]).view(1, 2, 1).expand(60, 2, 1)
    half = d.report(li.solve(lambda s, u: s * s + u, torch.full((2, 1), 0.1), inputs, throw=False, record=True))
    assert "SUCCESS/NONFINITE" in str(half)
    assert "stable" in str(half)  # of the one that was solved: s' = s^2 + 0.1 rests at 0.11
    assert "not solved" in half.verdict
    d.report_picture(half, 1)
    none = d.report(
        li.solve(tanh_rnn(4, 8.0, torch.float32), torch.zeros(4), torch.randn(90, 4), max_iters=2, throw=False)
    )
    assert "none: no sequence was solved" in str(none)
    with pytest.raises(ValueError, match="`sequence` must be"):
        d.report_picture(none, 1)
    gone = d.report(li.solve(lambda s, u: 0 * s + u, torch.zeros(2), torch.randn(50, 2)))
    assert "gone at once" in str(gone)


def test_report_says_when_it_does_not_pay():
    f = tanh_rnn(8, gain=12.0)
    solution = li.solve(f, torch.zeros(8, dtype=DOUBLE), torch.randn(60, 8, dtype=DOUBLE), li.Jacobi())
    assert "does not pay" in d.report(solution).verdict


def test_what_is_printed():
    problem = lambda s, u: 0.5 * s + u, torch.zeros(2, dtype=DOUBLE), torch.randn(100, 2, dtype=DOUBLE)
    assert str(d.lyapunov(*problem)).startswith("Lyapunov exponent -0.693 +- ")
    assert "log mu = " in str(d.conditioning(*problem))
    assert "rate at most " in str(d.contraction(*problem, li.Picard()))
    assert "1 iterations for 100 steps, counted" in str(d.predict_iterations(*problem))
    assert "about 1 iterations for 100 steps (between 1 and 2)" in str(d.predict_iterations(*problem, prefix=60))
    twice = problem[0], torch.zeros(3, 2, dtype=DOUBLE), torch.randn(100, 3, 2, dtype=DOUBLE)
    assert "in 3 sequences" in str(d.lyapunov(*twice))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": 1}, "`prefix` must be"),
        ({"exponents": 5}, "`exponents` must be a whole number from 1 to D = 2"),
        ({"blocks": 0}, "`blocks` must be"),
        ({"discard": 100}, "`discard` must be"),
        ({"states": torch.zeros(3, 2)}, "`states` must have shape"),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        d.lyapunov(lambda s, u: s + u, torch.zeros(2), torch.zeros(100, 2), **arguments)


def test_classes_for_instances_are_answered():
    problem = lambda s, u: s + u, torch.zeros(2), torch.zeros(100, 2)
    with pytest.raises(TypeError, match=r"Type `StepByStep\(\)`"):
        d.lyapunov(*problem, by=d.StepByStep)
    with pytest.raises(TypeError, match=r"Type `Newton\(\)`"):
        d.contraction(*problem, li.Newton)
    with pytest.raises(TypeError, match=r"`states` must be a tensor"):
        d.lyapunov(*problem, li.solve(*problem))
    for function in d.report, d.lyapunov_of, d.linearizations:
        with pytest.raises(TypeError, match=r"`solution` must be a Solution, got Tensor"):
            function(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="`exponent` must be what"):
        d.predict_iterations(*problem, exponent=-0.5)
