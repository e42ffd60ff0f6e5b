"""The compiled GRU, LSTM and RNN: step, iterations, adjoint and gradients, against the plain operations in float64."""

import math

import pytest
import torch

import lds_iter as li
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.cpu.build import function

DTYPES = [torch.float32, torch.float64]
CELLS = {
    "gru": (torch.nn.GRU, {}, li.nn.GRURecurrence, cells.GRU),
    "lstm": (torch.nn.LSTM, {}, li.nn.LSTMRecurrence, cells.LSTM),
    "tanh": (torch.nn.RNN, {}, li.nn.RNNRecurrence, cells.RNN_TANH),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}, li.nn.RNNRecurrence, cells.RNN_RELU),
}
METHODS = {"full": li.Newton(), "blocks": li.BlockNewton(2), "diagonal": li.QuasiNewton()}
EACH = [(kind, form) for kind in CELLS for form in METHODS if form != "blocks" or kind == "lstm"]
pytestmark = pytest.mark.skipif(
    function("gru", "step", torch.float32, 7) is None, reason="no C++ compiler, or turned off"
)  # fmt: skip


def problem(kind, n, batch, width, dtype, *, scale=1.0):
    """A recurrence, what its inputs contribute, and random states."""
    torch.manual_seed(0)
    layer, options, recurrence, cell = CELLS[kind]
    module = layer(width, width, **options).requires_grad_(False).to(dtype)
    module.weight_hh_l0.mul_(scale)
    f = recurrence.from_module(module)
    u = f.inputs(torch.randn(n, *batch, width, dtype=dtype))
    return f, u, torch.randn(n, *batch, cell.parts * width, dtype=dtype)


def tensors(kind, f, u):
    """What the compiled functions take."""
    if kind == "gru":
        return (*u, *f._weights, f._bias_n)
    return (*u, *f.weights) if kind == "lstm" else (u, f._weight)


def mates(u, pick):
    """The inputs of some batch mates, in memory of their own."""
    return tuple(leaf[pick].contiguous() for leaf in u) if isinstance(u, tuple) else u[pick].contiguous()


def plainly(monkeypatch, run, *arguments, **options):
    """Run it with plain torch operations."""
    with monkeypatch.context() as patch:
        patch.setenv("LDS_ITER_CPU_KERNELS", "0")
        return run(*arguments, **options)


def wide(kind, f, u, h):
    """The same in float64."""
    _, options, recurrence, cell = CELLS[kind]
    weights = tuple(weight.double() for weight in tensors(kind, f, u)[cell.gates : 2 * cell.gates])
    rows = cell.gates * f.width
    bias = torch.cat([torch.zeros(2 * f.width), f._bias_n]).double() if kind == "gru" else None
    g = recurrence(torch.zeros(rows, 1).double(), torch.cat(weights), None, bias, **options)
    return g, tuple(leaf.double() for leaf in u) if isinstance(u, tuple) else u.double(), h.double()


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
    value = cells.GRU.step(zero, (*u, *weights, bias), blocks=False)[0]
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
        relu = cells.RNN_RELU.step(torch.zeros(4, 1, dtype=dtype), (x.to(dtype).view(4, 1), one), blocks=True)
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
        assert float((f.adjoint(h, u, g).double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "form"), EACH)
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"window": 1}, {"rtol": 0}, {"rtol": 0, "atol": 0}])
def test_solves_like_the_plain_loop(kind, form, dtype, options, monkeypatch):
    method = METHODS[form]
    for n, batch, width in [(1, (), 3), (50, (), 8), (97, (3,), 5), (60, (2, 2), 16), (31, (), 64), (15, (2,), 128)]:
        f, u, h = problem(kind, n, batch, width, dtype)
        f64, u64, h64 = wide(kind, f, u, h)
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


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_single_iterations_are_those_of_the_plain_loop(kind, form, monkeypatch):
    """States and residuals of every iteration while far from converged, with rows accepted at unequal times."""
    for n, batch, width in [(61, (3,), 5), (40, (), 16), (33, (2,), 33)]:
        f, u, h = problem(kind, n, batch, width, torch.float64)
        guess = h.clone()
        flat = guess.view(n, -1, h.shape[-1])
        own = li.sequential(f, h[0], u).view(flat.shape)
        for mate in range(flat.shape[1]):
            flat[: 7 * mate + 4, mate] = own[: 7 * mate + 4, mate]  # solved up to rounding: accepted in the first sweep
        for limit in 1, 2, 3:
            options = {"guess": guess, "max_iters": limit, "throw": False}
            ours = li.solve(f, h[0], u, METHODS[form], **options)
            plain = plainly(monkeypatch, li.solve, f, h[0], u, METHODS[form], **options)
            # sums in another order, amplified by an iteration that may move away first: far below any change
            near = 1e-9 * (1 + float(plain.states.abs().max()))
            torch.testing.assert_close(ours.states, plain.states, rtol=0, atol=near)
            torch.testing.assert_close(ours.residual, plain.residual, rtol=1e-6, atol=near)
            assert torch.equal(ours.iterations, plain.iterations)
            assert torch.equal(ours.evaluations, plain.evaluations)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_the_residual_belongs_to_the_states(kind, form):
    f, u, h = problem(kind, 80, (3,), 8, torch.float32)
    for limit in 1, 2, 4:
        solution = li.solve(f, h[0], u, METHODS[form], max_iters=limit, throw=False)
        prev = torch.cat([h[:1], solution.states[:-1]])
        expected = (f(prev, u) - solution.states).abs().amax((0, -1))
        # accepted rows keep the residual with which they were accepted: a unit in the last place
        torch.testing.assert_close(solution.residual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "form"), EACH)
@pytest.mark.parametrize("window", [None, 20])
def test_batch_mates_and_threads_do_not_matter_to_the_bit(kind, form, window):
    """Even for a recurrence with matrix products, for every row is computed by the same instructions."""
    for width in 5, 8, 33:
        f, u, h = problem(kind, 150, (4,), width, torch.float32)
        together = li.solve(f, h[0], u, METHODS[form], window=window)
        for mate in range(4):
            alone = li.solve(f, h[0, mate], mates(u, (slice(None), mate)), METHODS[form], window=window)
            assert torch.equal(alone.states, together.states[:, mate])
            assert alone.iterations == together.iterations[mate]
            assert torch.equal(alone.residual, together.residual[mate])
        g, prev = torch.randn_like(h), torch.cat([h[:1], together.states[:-1]])
        adjoint, cell = f.adjoint(prev, u, g), CELLS[kind][3]
        squares = cell.gradients(prev, tensors(kind, f, u), g, matrices=True)[1]
        assert torch.equal(f.adjoint(prev[:, 1].contiguous(), mates(u, (slice(None), 1)), g[:, 1]), adjoint[:, 1])
        torch.set_num_threads(2)
        try:
            assert torch.equal(li.solve(f, h[0], u, METHODS[form], window=window).states, together.states)
            assert torch.equal(f.adjoint(prev, u, g), adjoint)
            again = cell.gradients(prev, tensors(kind, f, u), g, matrices=True)[1]
            assert all(torch.equal(one, other) for one, other in zip(again, squares, strict=True))
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_the_iteration_is_that_of_the_loop(kind, form, monkeypatch):
    """The loop by its tiles, with the compiled step and scan: to the bit, but for full Jacobians and blocks, whose
    products add up in another order; and a recording changes nothing."""
    for width in 5, 8, 33:
        f, u, h = problem(kind, 200, (3,), width, torch.float32)
        fused = li.solve(f, h[0], u, METHODS[form], record=True)
        assert torch.equal(fused.states, li.solve(f, h[0], u, METHODS[form]).states)
        with monkeypatch.context() as patch:
            patch.delattr(type(f), "sweep")
            tiles = li.solve(f, h[0], u, METHODS[form], record=True)
        assert torch.equal(fused.iterations, tiles.iterations)
        if form == "diagonal":
            assert torch.equal(fused.states, tiles.states)
            assert torch.equal(fused.residual, tiles.residual)
            assert torch.equal(fused.history.residual_map, tiles.history.residual_map)
        else:  # both within the tolerance on the residual, 1e-5, amplified
            torch.testing.assert_close(fused.states, tiles.states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_states_that_are_not_finite_are_reset_and_counted(kind, form, monkeypatch):
    f, u, h = problem(kind, 40, (2,), 8, torch.float32)
    guess, signs = h.clone(), tensors(kind, f, u)[CELLS[kind][3].gates][0].sign()
    for row, size in (10, 3e38), (20, -3e38):
        guess[row, 0, :: CELLS[kind][3].parts] = size * signs  # one product overflows, and 0 * inf may follow
    solution = li.solve(f, h[0], u, METHODS[form], guess=guess)
    plain = plainly(monkeypatch, li.solve, f, h[0], u, METHODS[form], guess=guess)
    clean = li.solve(f, h[0, 1], mates(u, (slice(None), 1)), METHODS[form], guess=guess[:, 1])
    assert solution.converged
    # what overflows where depends on the order of operations; not that it is repaired
    assert (solution.iterations <= plain.iterations + 1).all()
    assert solution.resets[0] > 0 or kind in ("lstm", "tanh")  # whose functions saturate
    assert solution.resets[1] == 0
    assert torch.equal(solution.states[:, 1], clean.states)
    torch.testing.assert_close(solution.states, li.sequential(f, h[0], u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gru", "relu"])  # the others saturate
@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_a_value_at_the_frontier_that_is_not_finite_ends_its_sequence(kind, form):
    f, u, h = problem(kind, 12, (2,), 8, torch.float32, scale=10)
    h[0, 0] = 3e38  # products overflow
    solution = li.solve(f, h[0], u, METHODS[form], guess=h, throw=False)
    assert solution.result.tolist() == [int(li.Result.NONFINITE), int(li.Result.SUCCESS)]


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_on_poisoned_memory(kind, form):
    """Inputs in the middle of NaN, and NaN in everything that is allocated: read and written is what belongs there."""

    def amid(x):
        room = torch.full((x.numel() + 64,), torch.nan, dtype=x.dtype)
        room[32 : 32 + x.numel()] = x.flatten()
        return room[32 : 32 + x.numel()].view(x.shape)

    for width in 3, 8, 17:
        f, u, h = problem(kind, 37, (2,), width, torch.float32)
        g = torch.randn_like(h)
        apart = tuple(amid(leaf) for leaf in u) if isinstance(u, tuple) else amid(u)

        def run(f=f, u=u, h=h, g=g, cell=CELLS[kind][3]):
            solution = li.solve(f, h[0], u, METHODS[form], guess=h)
            made, squares = cell.gradients(h, tensors(kind, f, u), g, matrices=True)
            return solution.states, f.adjoint(h, u, g), *cell.step(h, tensors(kind, f, u), blocks=True), *made, *squares

        expected = run()
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        try:
            assert torch.empty(1).isnan().all()
            found = run(u=apart, h=amid(h), g=amid(g))
        finally:
            torch.use_deterministic_algorithms(False)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


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
    assert f.adjoint(s, f.inputs(x), s) is None
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
