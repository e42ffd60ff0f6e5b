"""The compiled step, iterations, adjoint and gradients of the GRU, against the plain operations in float64."""

import math

import pytest
import torch

import lds_iter as li
from lds_iter.kernels.cpu import gru as compiled
from lds_iter.kernels.cpu.build import function

DTYPES = [torch.float32, torch.float64]
pytestmark = pytest.mark.skipif(
    function("gru", "step", torch.float32, 13) is None, reason="no C++ compiler, or turned off"
)


def problem(n, batch, width, dtype, seed=0):
    """A GRU, what its inputs contribute, and random states."""
    torch.manual_seed(seed)
    module = torch.nn.GRU(width, width).requires_grad_(False)
    f = li.nn.GRURecurrence.from_module(module.to(dtype))
    u = f.inputs(torch.randn(n, *batch, width, dtype=dtype))
    return f, u, torch.randn(n, *batch, width, dtype=dtype)


def plainly(monkeypatch, run, *arguments, **options):
    """Run it with plain torch operations."""
    with monkeypatch.context() as patch:
        patch.setenv("LDS_ITER_CPU_KERNELS", "0")
        return run(*arguments, **options)


def wide(f, u, h):
    """The same in float64."""
    g = li.nn.GRURecurrence(
        torch.zeros(3 * f.width, 1).double(), torch.cat(f._weights).double(), None,
        torch.cat([f._bias_n * 0, f._bias_n * 0, f._bias_n]).double(),
    )  # fmt: skip
    return g, tuple(leaf.double() for leaf in u), h.double()


def ulps(found, exact):
    """The largest error in units in the last place of `exact` in the type of `found`; subnormals count like the
    smallest normal number."""
    info = torch.finfo(found.dtype)
    exact = exact.double()
    unit = 2.0 ** torch.floor(torch.log2(exact.abs().clamp(min=info.tiny))) * info.eps
    return float(((found.double() - exact) / unit).abs().max())


def through(dtype, x, gate):
    """The value of a gate at the numbers `x`, through a step of width 1: with h = 0 the value is (1 - z) n."""
    x = x.to(dtype).view(-1, 1)
    big = torch.full_like(x, 1000.0)  # z = 0 and n = 1 exactly
    zero, weights, bias = torch.zeros_like(x), (torch.zeros(1, 1, dtype=dtype),) * 3, torch.zeros(1, dtype=dtype)
    u = (zero, -x, big) if gate == "sigmoid" else (zero, -big, x)
    value = compiled.step(zero, u, weights, bias, diagonal=False)[0]
    return value.view(-1)


def test_tanh_over_the_whole_range():
    for dtype in DTYPES:
        info = torch.finfo(dtype)
        size = torch.logspace(math.log10(info.tiny), 3, 40_001, dtype=torch.float64)
        near = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
        x = torch.cat([size, -size, near, torch.tensor([0.0, info.max, -info.max, info.tiny / 8])]).to(dtype)
        # float64 has no wider reference here than torch's own, itself good to one unit
        assert ulps(through(dtype, x, "tanh"), torch.tanh(x.double())) <= (2 if dtype == torch.float32 else 3)


def test_sigmoid_over_the_whole_range():
    """Seen as 1 - sigmoid(-x) with n = 1: its absolute error, of numbers up to 1, in units of 1."""
    for dtype in DTYPES:
        x = torch.cat([torch.linspace(-120, 120, 80_001, dtype=torch.float64), torch.tensor([0.0, 1e30, -1e30])])
        x = x.to(dtype)
        error = (through(dtype, x, "sigmoid").double() - torch.sigmoid(x.double())).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps


def test_inf_and_nan_come_through():
    for dtype in DTYPES:
        x = torch.tensor([math.inf, -math.inf, math.nan, 0.5])
        tanh = through(dtype, x, "tanh")
        assert tanh[0] == 1
        assert tanh[1] == -1
        assert tanh[2].isnan()
        assert tanh[3].isfinite()
        sigmoid = through(dtype, x, "sigmoid")
        assert sigmoid[0] == 1
        assert sigmoid[1] == 0
        assert sigmoid[2].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 13, 16, 17, 32, 33, 70])
def test_step_adjoint_and_gradients(dtype, width, monkeypatch):
    for n, batch in [(1, ()), (33, (3,)), (301, ()), (20, (2, 2))]:
        f, u, h = problem(n, batch, width, dtype)
        g = torch.randn_like(h)
        f64, u64, h64 = wide(f, u, h)
        exact = plainly(monkeypatch, f64.linearize, h64, u64)
        # products of up to 70 terms of order 1 before functions of slope 1: some tens of units in the last place of 1
        near = {"rtol": 0, "atol": 100 * torch.finfo(dtype).eps}
        value, diagonal = compiled.step(h, u, f._weights, f._bias_n, diagonal=True)
        torch.testing.assert_close(value.double(), exact.value, **near)
        torch.testing.assert_close(diagonal.double(), plainly(monkeypatch, exact.diagonal), **near)
        assert torch.equal(compiled.step(h, u, f._weights, f._bias_n, diagonal=False)[0], value)
        jacobian = compiled.jacobian(h, u, f._weights, f._bias_n)
        torch.testing.assert_close(jacobian.double(), plainly(monkeypatch, exact.jacobian), **near)
        made = compiled.gradients(h, u, f._weights, f._bias_n, g)
        for mine, theirs in zip(made, exact.gradients(g.double()), strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=400 * torch.finfo(dtype).eps)
        transposed, rows, carry = exact.jacobian().mT, [], torch.zeros_like(h64[0])
        for t in reversed(range(n)):
            rows.append(g[t].double() + carry)
            carry = (transposed[t] @ rows[-1].unsqueeze(-1)).squeeze(-1)
        expected = torch.stack(rows[::-1])
        # an expanding recurrence amplifies its rounding: relative to the largest adjoint
        bound = 1000 * torch.finfo(dtype).eps * float(expected.abs().max())
        assert float((f.adjoint(h, u, g).double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"window": 1}, {"rtol": 0}, {"rtol": 0, "atol": 0}])
def test_solves_like_the_plain_loop(dtype, method, options, monkeypatch):
    for n, batch, width in [(1, (), 3), (50, (), 8), (97, (3,), 5), (60, (2, 2), 16)]:
        f, u, h = problem(n, batch, width, dtype)
        f64, u64, h64 = wide(f, u, h)
        exact = plainly(monkeypatch, li.sequential, f64, h64[0], u64)
        ours = li.solve(f, h[0], u, method, guess=h, **options)
        plain = plainly(monkeypatch, li.solve, f, h[0], u, method, guess=h, **options)
        # the stopping tolerance, or the rounding of `f`, both amplified by the network
        assert float((ours.states.double() - exact).abs().max()) <= max(
            3 * float((plain.states.double() - exact).abs().max()), 1e4 * torch.finfo(dtype).eps
        )
        # rounding may decide at the edge of a tolerance; with none left, it decides what comes last
        assert options.get("atol") == 0 or (ours.iterations - plain.iterations).abs().max() <= 1
        assert ours.converged


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
def test_the_residual_belongs_to_the_states(method):
    f, u, h = problem(80, (3,), 8, torch.float32)
    for limit in 1, 2, 4:
        solution = li.solve(f, h[0], u, method, max_iters=limit, throw=False)
        prev = torch.cat([h[:1], solution.states[:-1]])
        expected = (f(prev, u) - solution.states).abs().amax((0, -1))
        # accepted rows keep the residual with which they were accepted: a unit in the last place
        torch.testing.assert_close(solution.residual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
@pytest.mark.parametrize("window", [None, 20])
def test_batch_mates_and_threads_do_not_matter_to_the_bit(method, window):
    """Even for a recurrence with matrix products, for every row is computed by the same instructions."""
    for width in 5, 8, 16, 33:
        f, u, h = problem(300, (4,), width, torch.float32)
        together = li.solve(f, h[0], u, method, window=window)
        for mate in range(4):
            alone = li.solve(f, h[0, mate], tuple(leaf[:, mate].contiguous() for leaf in u), method, window=window)
            assert torch.equal(alone.states, together.states[:, mate])
            assert alone.iterations == together.iterations[mate]
            assert torch.equal(alone.residual, together.residual[mate])
        torch.set_num_threads(2)
        try:
            assert torch.equal(li.solve(f, h[0], u, method, window=window).states, together.states)
        finally:
            torch.set_num_threads(1)


def test_the_iteration_is_that_of_the_loop_to_the_bit(monkeypatch):
    """The loop by its tiles, with the compiled step and scan; and a recording changes nothing."""
    for width in 5, 8, 33:
        f, u, h = problem(400, (3,), width, torch.float32)
        fused = li.solve(f, h[0], u, li.QuasiNewton(), record=True)
        assert torch.equal(fused.states, li.solve(f, h[0], u, li.QuasiNewton()).states)
        with monkeypatch.context() as patch:
            patch.delattr(li.nn.GRURecurrence, "sweep")
            tiles = li.solve(f, h[0], u, li.QuasiNewton(), record=True)
        assert torch.equal(fused.states, tiles.states)
        assert torch.equal(fused.iterations, tiles.iterations)
        assert torch.equal(fused.residual, tiles.residual)
        assert torch.equal(fused.history.residual_map, tiles.history.residual_map)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
def test_states_that_are_not_finite_are_reset_and_counted(method):
    f, u, h = problem(40, (2,), 8, torch.float32)
    guess = h.clone()
    guess[10, 0], guess[20, 0] = 3e38, -3e38  # products overflow, and 0 * inf follows
    solution = li.solve(f, h[0], u, method, guess=guess)
    clean = li.solve(f, h[0, 1], tuple(leaf[:, 1].contiguous() for leaf in u), method, guess=guess[:, 1])
    assert solution.converged
    assert solution.resets[0] > 0
    assert solution.resets[1] == 0
    assert torch.equal(solution.states[:, 1], clean.states)
    torch.testing.assert_close(solution.states, li.sequential(f, h[0], u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
def test_a_value_at_the_frontier_that_is_not_finite_ends_its_sequence(method):
    f, u, h = problem(40, (2,), 8, torch.float32)
    h[0, 0] = 3e38
    solution = li.solve(f, h[0], u, method, guess=h, throw=False)
    assert solution.result.tolist() == [int(li.Result.NONFINITE), int(li.Result.SUCCESS)]


def test_gradients_against_finite_differences():
    module = torch.nn.GRU(2, 3).double()
    x, h0 = torch.randn(4, 1, 2, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    weights = [weight.detach().requires_grad_() for weight in module.parameters()]

    def states(x, h0, *weights):
        f = li.nn.GRURecurrence(*weights)
        return li.solve(f, h0, f.inputs(x), li.Newton()).states

    def stepwise(x, h0, *weights):
        f = li.nn.GRURecurrence(*weights)
        return li.sequential(f, h0, f.inputs(x))

    arguments = (x.requires_grad_(), h0.requires_grad_(), *weights)
    assert torch.autograd.gradcheck(states, arguments)
    assert torch.autograd.gradcheck(stepwise, arguments)
    assert torch.autograd.gradgradcheck(stepwise, arguments)
    assert torch.autograd.gradcheck(stepwise, arguments, check_batched_grad=True)
    assert torch.autograd.gradcheck(stepwise, arguments, check_forward_ad=True)


def test_other_kinds_of_tensors_take_the_plain_step():
    f, u, h = problem(6, (), 4, torch.float32)
    expected = f(h, u)
    apart = torch.stack([h, h], -1)[..., 0]
    torch.testing.assert_close(f(apart, u), expected)
    batched = torch.func.vmap(f)(torch.stack([h, h]), tuple(torch.stack([leaf, leaf]) for leaf in u))
    torch.testing.assert_close(batched[1], expected)
    _, moved = torch.func.jvp(lambda h: f(h, u), (h,), (torch.ones_like(h),))
    torch.testing.assert_close(moved, f.linearize(h, u).jvp(torch.ones_like(h)))
    meta = li.nn.GRURecurrence(torch.zeros(12, 1, device="meta"), torch.zeros(12, 4, device="meta"))
    assert meta(h.to("meta"), tuple(leaf.to("meta") for leaf in u)).shape == h.shape
    half = li.nn.GRURecurrence(torch.zeros(12, 1).bfloat16(), torch.zeros(12, 4).bfloat16())
    assert half(h.bfloat16(), tuple(leaf.bfloat16() for leaf in u)).dtype == torch.bfloat16
