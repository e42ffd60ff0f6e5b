"""The compiled GRU, LSTM and RNN: their functions, step, adjoint and gradients, against plain operations in float64."""

import math

import pytest
import torch
from compiled_cells import CELLS, COMPILED, DTYPES, plainly, problem, tensors, wide

import lds_iter as li
from lds_iter.kernels.cpu import cells

pytestmark = pytest.mark.skipif(not COMPILED, reason="no C++ compiler, or turned off")


def ulps(found, exact):
    """The largest error in units in the last place of `exact` in the type of `found`; subnormals count like the
    smallest normal number."""
    info = torch.finfo(found.dtype)
    exact = exact.double()
    unit = 2.0 ** torch.floor(torch.log2(exact.abs().clamp(min=info.tiny))) * info.eps
    return float(((found.double() - exact) / unit).abs().max())


def through(dtype, x, gate):
    """The value of a gate at the numbers `x`, through a GRU's step of width 1: with h = 0 the value is (1 - z) n."""
    x = x.to(dtype).view(-1, 1)
    big = torch.full_like(x, 1000.0)  # z = 0 and n = 1 exactly
    zero, weights, bias = torch.zeros_like(x), (torch.zeros(1, 1, dtype=dtype),) * 3, torch.zeros(1, dtype=dtype)
    u = (zero, -x, big) if gate == "sigmoid" else (zero, -big, x)
    value = cells.COMPILED_GRU.step(zero, (*u, *weights, bias), blocks=False)[0]
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
        x = torch.cat([x, 6 * x]).to(dtype)
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
        one = torch.ones(1, 1, dtype=dtype)
        relu = cells.COMPILED_RNN_RELU.step(torch.zeros(4, 1, dtype=dtype), (x.to(dtype).view(4, 1), one), blocks=True)
        assert relu[0].view(4).nan_to_num(7, posinf=5).tolist() == [5, 0, 7, 0.5]
        assert relu[1].view(4).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 13, 16, 17, 32, 33, 70])
@pytest.mark.parametrize("kind", CELLS)
def test_step_adjoint_and_gradients(kind, width, dtype, monkeypatch):
    cell = CELLS[kind][3]
    for n, batch in [(1, ()), (33, (3,)), (301, ()), (20, (2, 2))]:
        f, u, h = problem(kind, n, batch, width, dtype)
        g, given = torch.randn_like(h), tensors(kind, f, u)
        f64, u64, h64 = wide(kind, f, u, h)
        exact = plainly(monkeypatch, f64.linearize, h64, u64)
        # products of up to 70 terms of order 1 before functions of slope 1: some tens of units in the last place of 1
        near = {"rtol": 0, "atol": 100 * torch.finfo(dtype).eps}
        value, blocks = cell.step(h, given, blocks=True)
        torch.testing.assert_close(value.double(), exact.value, **near)
        torch.testing.assert_close(blocks.double(), plainly(monkeypatch, exact.block_diagonal, cell.parts), **near)
        assert torch.equal(cell.step(h, given, blocks=False)[0], value)
        assert torch.equal(f.linearize(h, u).diagonal(), blocks.diagonal(dim1=-2, dim2=-1).flatten(-2))
        jacobian = f.linearize(h, u).jacobian()
        torch.testing.assert_close(jacobian.double(), plainly(monkeypatch, exact.jacobian), **near)
        assert torch.equal(jacobian, cell.jacobian(h, given))
        made, squares = cell.gradients(h, given, g, matrices=True)
        assert not cell.gradients(h, given, g, matrices=False)[1]
        slopes = exact.gradients(g.double())
        for mine, theirs in zip(made, slopes, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=400 * torch.finfo(dtype).eps)
        states = h64[..., :: cell.parts].reshape(-1, width)
        for mine, slope in zip(squares, slopes, strict=False):
            sums = slope.reshape(states.shape).T @ states
            bound = 100 * torch.finfo(dtype).eps * (slope.abs().reshape(states.shape).T @ states.abs())
            assert ((mine.double() - sums).abs() <= bound + 400 * torch.finfo(dtype).eps).all()
        jacobian, rows, carry = exact.jacobian().mT, [], torch.zeros_like(h64[0])
        for t in reversed(range(n)):
            rows.append(g[t].double() + carry)
            carry = (jacobian[t] @ rows[-1].unsqueeze(-1)).squeeze(-1)
        expected = torch.stack(rows[::-1])
        # an expanding recurrence amplifies its rounding: relative to the largest adjoint
        bound = 1000 * torch.finfo(dtype).eps * float(expected.abs().max())
        assert float((f.solve_adjoint(h, u, g).double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_against_finite_differences(kind):
    layer, options, recurrence, cell = CELLS[kind]
    torch.manual_seed(1)
    module = layer(2, 3, **options).double()
    x, h0 = torch.randn(4, 1, 2, dtype=torch.float64), torch.randn(1, 3 * cell.parts, dtype=torch.float64)
    weights = [weight.detach().requires_grad_() for weight in module.parameters()]

    def states(x, h0, *weights):
        f = recurrence(*weights, **options)
        return li.solve(f, h0, f.inputs(x), li.Newton()).states

    def stepwise(x, h0, *weights):
        f = recurrence(*weights, **options)
        return li.sequential(f, h0, f.inputs(x))

    arguments = (x.requires_grad_(), h0.requires_grad_(), *weights)
    assert torch.autograd.gradcheck(states, arguments)
    assert torch.autograd.gradcheck(stepwise, arguments)
    assert torch.autograd.gradgradcheck(stepwise, arguments)
    assert torch.autograd.gradcheck(stepwise, arguments, check_batched_grad=True)
    assert torch.autograd.gradcheck(stepwise, arguments, check_forward_ad=True)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("method", [li.Newton(), None])
def test_a_layer_trains_like_that_of_torch(kind, method):
    layer, options, _, _ = CELLS[kind]
    torch.manual_seed(0)
    theirs = layer(3, 9, num_layers=2, bidirectional=True, **options).double()
    ours = getattr(li.nn, layer.__name__)(3, 9, num_layers=2, bidirectional=True, **options).double()
    ours.load_state_dict(theirs.state_dict())
    ours.method = li.nn.fixed_method(theirs) if method is None else method
    x = torch.randn(201, 2, 3, dtype=torch.float64)
    weight = torch.randn(201, 2, 18, dtype=torch.float64)
    found = [torch.autograd.grad((one(x)[0] * weight).sum(), list(one.parameters())) for one in (ours, theirs)]
    for mine, exact in zip(*found, strict=True):
        # a residual of 1e-10, summed over 201 steps
        torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-6)
    assert all(solution.converged for solution in ours.last_solution)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection_takes_the_plain_step():
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, 8, proj_size=4)
    ours = li.nn.LSTM(3, 8, proj_size=4, method=li.Newton())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(60, 2, 3)
    f = li.nn.LSTMRecurrence.from_module(theirs)
    s = torch.zeros(60, 2, 16)
    assert f.solve_adjoint(s, f.inputs(x), s) is None
    # the stopping tolerance, amplified
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CELLS)
def test_other_kinds_of_tensors_take_the_plain_step(kind):
    f, u, h = problem(kind, 6, (), 4, torch.float32)
    _, options, recurrence, cell = CELLS[kind]
    expected = f(h, u)
    apart = torch.stack([h, h], -1)[..., 0]
    torch.testing.assert_close(f(apart, u), expected)
    two = tuple(torch.stack([leaf, leaf]) for leaf in u) if isinstance(u, tuple) else torch.stack([u, u])
    batched = torch.func.vmap(f)(torch.stack([h, h]), two)
    torch.testing.assert_close(batched[1], expected)
    _, moved = torch.func.jvp(lambda h: f(h, u), (h,), (torch.ones_like(h),))
    torch.testing.assert_close(moved, f.linearize(h, u).jvp(torch.ones_like(h)))
    rows = 4 * cell.gates
    there = tuple(leaf.to("meta") for leaf in u) if isinstance(u, tuple) else u.to("meta")
    meta = recurrence(torch.zeros(rows, 1, device="meta"), torch.zeros(rows, 4, device="meta"), **options)
    assert meta(h.to("meta"), there).shape == h.shape
    halved = tuple(leaf.bfloat16() for leaf in u) if isinstance(u, tuple) else u.bfloat16()
    half = recurrence(torch.zeros(rows, 1).bfloat16(), torch.zeros(rows, 4).bfloat16(), **options)
    assert half(h.bfloat16(), halved).dtype == torch.bfloat16
    traced = torch.compile(f, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(h, u), expected)
