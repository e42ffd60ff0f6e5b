"""Kalman's equations, step by step and as normal equations, are the judges of the parallel scan."""

import json

import pytest
import torch
from catalogue import RotationScale, tanh_rnn
from given_lds import given_lds, linearization, proposal
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li
from bench.edge.problems import sine
from bench.kalman.__main__ import PAGE
from bench.kalman.measure import costs, lorenz96
from bench.kalman.page import page

SIGMA2 = st.sampled_from([1e-2, 1.0, 30.0, 1e4])
SHAPES = st.tuples(st.integers(1, 50), st.sampled_from([(), (1,), (3,), (2, 2)]), st.sampled_from([1, 2, 3, 5]))
NORMS = st.sampled_from([0.3, 1.0, 1.5])
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture(autouse=True, scope="module", params=["compiled", "plain"])
def kernels(request):
    """Everything here holds of the compiled steps and of the scans in plain operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDS_ITER_CPU_KERNELS", "1" if request.param == "compiled" else "0")
        yield request.param


def kalman_filter(matrices, residual, sigma2, frontier=-1):
    """The textbook, one step after the other, one sequence: process noise 1, observation 0 of variance sigma2, which
    may be one per row."""
    one = torch.eye(residual.shape[-1], dtype=residual.dtype)
    sigma2 = torch.as_tensor(sigma2, dtype=residual.dtype).expand(len(residual))
    mean, covariance, means = torch.zeros_like(residual[0]), torch.zeros_like(one), []
    for t in range(residual.shape[0]):
        if t <= frontier:  # exact: d_p = r_p, and nothing before
            mean = residual[t]
        else:
            mean = matrices[t] @ mean + residual[t]
            covariance = matrices[t] @ covariance @ matrices[t].T + one
            gain = covariance @ torch.linalg.inv(covariance + sigma2[t] * one)
            mean, covariance = mean - gain @ mean, (one - gain) @ covariance
        means.append(mean)
    return torch.stack(means)


def levenberg_marquardt(matrices, residual, sigma2, frontier=-1):
    """The step by its normal equations, one sequence; the rows up to the frontier are given."""
    n, width = residual.shape
    steps = torch.eye(n * width, dtype=residual.dtype)
    for t in range(max(1, frontier + 1), n):
        steps[t * width : (t + 1) * width, (t - 1) * width : t * width] = -matrices[t]
    known = (frontier + 1) * width
    right = residual.flatten() - steps[:, :known] @ residual.flatten()[:known]
    free, right = steps[known:, known:], right[known:]
    observed = (1 / torch.as_tensor(sigma2, dtype=residual.dtype).expand(n)).repeat_interleave(width)[known:]
    normal = free.T @ free + observed.diag()
    return torch.cat([residual.flatten()[:known], torch.linalg.solve(normal, free.T @ right)]).view(n, width)


def each(judge, matrices, residual, frontier, sigma2):
    """A judge of one sequence, for every batch mate."""
    n, width = residual.shape[0], residual.shape[-1]
    flat = matrices.reshape(n, -1, width, width), residual.reshape(n, -1, width), frontier.reshape(-1)
    mates = [judge(flat[0][:, i], flat[1][:, i], sigma2, int(flat[2][i])) for i in range(flat[2].numel())]
    return torch.stack(mates, 1).view_as(residual)


@pytest.mark.parametrize(("form", "judge"), [(li.Filter(), kalman_filter), (li.Smoother(), levenberg_marquardt)])
@settings(max_examples=15)
@given(shape=SHAPES, seed=st.integers(0, 99), sigma2=SIGMA2, norm=NORMS, data=st.data())
def test_the_update_is_that_of_the_textbook_for_any_frontiers(form, judge, shape, seed, sigma2, norm, data):
    matrices, residual = given_lds(shape, seed, norm)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    frontier = torch.randint(-1, shape[0], shape[1], generator=generator)
    lin = linearization(matrices, residual, frontier)
    expected = each(judge, matrices, lin.residual, frontier, sigma2)
    # float64, rounding times the growth of a few tens of steps, relative to the largest update.
    scale = expected.abs().max()
    torch.testing.assert_close(
        proposal(li.LevenbergMarquardt(sigma2, form=form), lin) / scale, expected / scale, **CLOSE
    )


@pytest.mark.parametrize("width", [8, 16, 17, 33, 65])
def test_the_filter_of_wide_states(width):
    """Every way in which products lie in memory and inverses are cut; 70 rows end within a block."""
    matrices, residual = given_lds((70, (2,), width), 0, 1.2)
    frontier = torch.tensor([-1, 20])
    lin = linearization(matrices, residual, frontier)
    expected = each(kalman_filter, matrices, lin.residual, frontier, 30.0)
    scale = expected.abs().max()
    torch.testing.assert_close(proposal(li.LevenbergMarquardt(30.0), lin) / scale, expected / scale, **CLOSE)


@pytest.mark.parametrize("form", [li.Filter(), li.Smoother()])
@settings(max_examples=15)
@given(shape=SHAPES, seed=st.integers(0, 99), sigma2=SIGMA2, norm=NORMS)
def test_diagonal_equals_dense(form, shape, seed, sigma2, norm):
    matrices, residual = given_lds(shape, seed, norm)
    matrices = torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    lin = [linearization(matrices, residual) for _ in range(2)]
    dense = proposal(li.LevenbergMarquardt(sigma2, form=form), lin[0])
    scale = dense.abs().max()
    diagonal = proposal(li.LevenbergMarquardt(sigma2, li.QuasiNewton(), form), lin[1])
    torch.testing.assert_close(diagonal / scale, dense / scale, **CLOSE)


@pytest.mark.parametrize("form", [li.Filter(), li.Smoother()])
def test_a_damping_per_sequence_is_that_of_each_alone(form):
    matrices, residual = given_lds((40, (3,), 2), 0)
    method, precision = li.LevenbergMarquardt(1.0, form=form), torch.tensor([1.0, 1e-3, 0.0], dtype=torch.float64)
    with torch.no_grad():
        together = method.damped(linearization(matrices, residual), precision)
        for mate in range(2):
            alone = linearization(matrices[:, mate], residual[:, mate])
            torch.testing.assert_close(together[:, mate], method.damped(alone, precision[mate]), **CLOSE)
        newton = proposal(li.Newton(), linearization(matrices[:, 2], residual[:, 2]))
    torch.testing.assert_close(together[:, 2], newton, **CLOSE)


@pytest.mark.parametrize(("form", "judge"), [(li.Filter(), kalman_filter), (li.Smoother(), levenberg_marquardt)])
@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("diagonal", [False, True])
def test_a_damping_per_row_is_that_of_the_textbook(form, judge, width, diagonal):
    """Of six decades from one row to the next, two mates, one with a frontier within; and one not damped at all."""
    matrices, residual = given_lds((40, (3,), width), 0, 1.2)
    generator = torch.Generator().manual_seed(0)
    precision = 10 ** (6 * torch.rand(40, 3, generator=generator, dtype=torch.float64) - 5)
    precision[:, 2] = 0
    if diagonal:
        matrices = torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    lin = linearization(matrices, residual, torch.tensor([-1, 11, 20]))
    method = li.LevenbergMarquardt(1.0, li.QuasiNewton() if diagonal else li.Newton(), form)
    with torch.no_grad():
        found = method.damped(lin, precision)
    newton = proposal(method.approximation, linearization(matrices[:, 2], residual[:, 2], torch.tensor(20)))
    torch.testing.assert_close(found[:, 2], newton, **CLOSE)
    for mate, frontier in (0, -1), (1, 11):
        expected = judge(matrices[:, mate], lin.residual[:, mate], 1 / precision[:, mate], frontier)
        torch.testing.assert_close(found[:, mate], expected, **CLOSE)


@pytest.mark.parametrize("form", [li.Filter(), li.Smoother()])
@pytest.mark.parametrize("approximation", [li.Newton(), li.QuasiNewton()], ids=["dense", "diagonal"])
def test_a_hundred_thousand_steps_in_float32(form, approximation):
    """On the edge of stability: Jacobians are rotations times 1 +- 0.1, so products neither grow nor vanish at once."""
    generator = torch.Generator().manual_seed(0)
    angle, size = torch.rand(2, 100_000, generator=generator, dtype=torch.float64)
    size = 1 + 0.2 * (size - 0.5)
    c, s = size * angle.cos(), size * angle.sin()
    matrices = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    if isinstance(approximation, li.QuasiNewton):
        matrices = torch.diag_embed(torch.stack([size, -size], -1))
    residual = torch.randn(100_000, 2, generator=generator, dtype=torch.float64)
    method = li.LevenbergMarquardt(1e6, approximation, form)
    exact = proposal(method, linearization(matrices, residual))
    single = proposal(method, linearization(matrices.float(), residual.float()))
    assert single.isfinite().all()
    # 1e-7 of rounding a step, over a memory of about 1000 steps (the root of sigma2), in gains and in the scan.
    assert (single - exact).abs().max() < 1e-3 * exact.abs().max()


def test_without_the_frontier_t_iterations_do_not_suffice():
    """The papers' iteration holds on to a wrong guess; with the frontier the same method ends at a residual of 0."""
    f, length = tanh_rnn(4, gain=1.5), 40
    s0, u = torch.zeros(4, dtype=torch.float64), torch.randn(length, 4, dtype=torch.float64)
    truth = li.sequential(f, s0, u)
    for method in li.LevenbergMarquardt(1.0), li.LevenbergMarquardt(1.0, form=li.Smoother()):
        states = torch.zeros_like(truth)
        for _ in range(length):
            prev = torch.cat([s0[None], states[:-1]])
            value = f(prev, u)
            matrices = torch.func.vmap(torch.func.jacfwd(lambda s, u: f(s, u)))(prev, u)
            states = states + proposal(method, linearization(matrices, value - states))
        assert (states - truth).abs().max() > 1e-6
        solution = li.solve(f, s0, u, method, rtol=0, atol=0)
        assert solution.iterations <= length
        assert solution.residual == 0
        torch.testing.assert_close(solution.states, truth, rtol=1e-9, atol=1e-9)


def test_float32_reaches_the_accuracy_of_float64():
    """Two time units of a chaotic flow, which amplify what is rounded about tenfold."""
    exact = li.solve(*lorenz96(length=200)).states
    solution = li.solve(*lorenz96(length=200, dtype=torch.float32), li.LevenbergMarquardt(300.0), rtol=0, atol=0)
    assert solution.residual == 0
    assert (solution.states - exact).norm() < 1e-5 * exact.norm()


def test_a_trust_region_anneals_a_precision_in_float32():
    """On a wave of zero Lyapunov exponent products grow; a precision that ended at eps could only jump to Newton."""
    problem = sine(2000, 0, torch.float32)
    method = li.TrustRegion(li.LevenbergMarquardt(1.0))
    arguments = problem.f, problem.s0, problem.inputs, method
    solution = li.solve(*arguments, guess=problem.guess, rtol=1e-5, atol=2e-6, max_iters=100)
    assert solution.carry.rejected < solution.iterations / 2
    assert float(solution.carry.k) < 1e-3


def test_the_adjoint_is_solved_without_damping():
    for form in li.Filter(), li.Smoother():
        method = li.LevenbergMarquardt(1.0, li.Damped(li.BlockNewton(2), 0.1), form)
        assert method.for_adjoint() == li.BlockNewton(2)


@pytest.mark.parametrize("sigma2", [0, -1.0, float("inf"), float("nan"), "1", True, None])
def test_sigma2_must_be_positive_and_finite(sigma2):
    with pytest.raises(ValueError, match=r"`sigma2` must be a finite number above 0, got .*li\.Newton\(\)"):
        li.LevenbergMarquardt(sigma2)


def test_parts_must_be_instances():
    with pytest.raises(
        TypeError, match=r"`approximation` must be an instance of StatefulTransition .* Type `QuasiNewton\(\)`"
    ):
        li.LevenbergMarquardt(1.0, li.QuasiNewton)
    with pytest.raises(TypeError, match=r"`approximation` must be an instance of StatefulTransition"):
        li.LevenbergMarquardt(1.0, li.LevenbergMarquardt(1.0))
    with pytest.raises(
        TypeError, match=r"`form` must be an instance of KalmanForm such as Filter\(\) .* Type `Smoother\(\)`"
    ):
        li.LevenbergMarquardt(1.0, form=li.Smoother)


@pytest.mark.parametrize("form", [li.Filter(), li.Smoother()])
def test_gains_of_any_other_structure_are_those_of_its_matrices(form):
    class Own(li.TransitionApproximation):
        def transition(self, lin):
            half = lin.residual[..., ::2]
            return RotationScale(half, 2 * half)

    class Full(li.TransitionApproximation):
        def transition(self, lin):
            return Own().transition(lin).dense(lin.residual)

    arguments = tanh_rnn(4), torch.zeros(4).double(), torch.ones(9, 4).double()
    own, full = (li.solve(*arguments, li.LevenbergMarquardt(1.0, method(), form)) for method in (Own, Full))
    assert own.iterations == full.iterations
    torch.testing.assert_close(own.states, full.states, **CLOSE)


def test_the_benchmark_runs():
    rows = costs([("Lorenz-96", 4, 60)])
    assert [row["of"] for row in rows] == ["Newton", "QuasiNewton"]


def test_the_tables_of_the_page_are_those_of_the_results():
    results = json.loads((PAGE.parents[2] / "bench" / "results" / "cpu-1-threads" / "kalman.json").read_text())
    assert PAGE.read_text() == page(PAGE.read_text(), results)
