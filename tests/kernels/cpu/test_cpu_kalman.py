"""Kalman's filter and smoother in compiled code, against the scans in plain operations in float64."""

import dataclasses

import pytest
import torch
from catalogue import tanh_rnn
from given_lds import given_lds, linearization, proposal

import lds_iter as li
from bench.edge.problems import sine
from lds_iter.kernels.cpu import kalman as compiled
from lds_iter.kernels.cpu.build import function

DTYPES = [torch.float32, torch.float64]
FORMS = [li.Filter(), li.Smoother()]
pytestmark = pytest.mark.skipif(
    function("kalman", "matrices", torch.float32, 17) is None, reason="no C++ compiler, or turned off"
)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


class Chosen(li.TransitionApproximation):
    """A method that chose these matrices."""

    def __init__(self, transition):
        self._transition = transition

    def transition(self, lin):
        return self._transition


def plainly(monkeypatch, run, *arguments):
    """Run it with plain torch operations."""
    with monkeypatch.context() as patch:
        patch.setenv("LDS_ITER_CPU_KERNELS", "0")
        return run(*arguments)


def update(form, transition, r, frontier, precision, end=None):
    """The rows that may move of an update; `end` is the time after the last of them."""
    lin = linearization(None, r, frontier)
    lin = dataclasses.replace(lin, _end=end)
    lin = dataclasses.replace(lin, residual=torch.where(lin.open, r, 0))
    return li.LevenbergMarquardt(1.0, Chosen(transition), form).damped(lin, precision).where(lin.open, 0)


def poisoned(x, apart):
    """The same numbers in the middle of memory that is NaN all around; rows apart from each other, or not."""
    room = torch.full((x.shape[0] + 2, x[0].numel() + (7 if apart else 0)), torch.nan, dtype=x.dtype)
    view = (room[1:-1, 3:-4] if apart else room[1:-1]).unflatten(1, x.shape[1:])
    return view.copy_(x)


def structures(n, batch, width, dtype):
    """Matrices as they may lie in memory; of gain about 1, so that rounding is not amplified."""
    dense = torch.randn(n, *batch, width, width, dtype=dtype) / width**0.5
    sizes = [size for size in (1, 2, 3, 4, 8) if width % size == 0]
    blocks = {size: torch.randn(n, *batch, width // size, size, size, dtype=dtype) / size**0.5 for size in sizes}
    numbers = 2 * torch.rand(n, *batch, width, dtype=dtype) - 1
    return {
        "dense": li.Dense(poisoned(dense, False)),
        "apart": li.Dense(poisoned(dense, True)),
        "transposed": li.Dense(dense.mT),
        "columns": li.Dense(dense.movedim(-1, 0).contiguous().movedim(0, -1)),
        "expanded": li.Dense(dense[:1].expand_as(dense)),
        **{f"blocks of {size}": li.BlockDiagonal(matrices) for size, matrices in blocks.items()},
        "diagonal": li.Diagonal(poisoned(numbers, False)),
        "diagonal apart": li.Diagonal(poisoned(numbers, True)),
        "diagonal for all": li.Diagonal(numbers[:1].expand_as(numbers)),
        "every second": li.Diagonal(torch.stack([numbers, numbers], -1)[..., 1]),
    }


SHAPES = [
    (1, (), 3),
    (2, (3,), 1),
    (37, (), 2),
    (70, (2, 2), 4),
    (33, (11,), 5),
    (130, (), 6),
    (9, (3,), 7),
    (300, (2,), 8),
]
SHAPES += [(40, (), 9), (70, (2,), 12), (35, (), 16), (20, (3,), 17), (65, (), 24), (12, (), 33), (9, (2,), 67)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "batch", "width"), SHAPES)
def test_every_structure_on_poisoned_memory(form, dtype, n, batch, width, monkeypatch):
    torch.manual_seed(0)
    frontier = torch.randint(-1, n, batch)
    for name, transition in structures(n, batch, width, dtype).items():
        r = poisoned(torch.randn(n, *batch, width, dtype=dtype), False)
        double = li.linear.map_leaves(lambda leaf: leaf.double(), transition)
        precision = torch.tensor([0.3, 0.0, 1e-4, 30.0], dtype=dtype).repeat(8)[: max(1, frontier.numel())].view(batch)
        for end in None, torch.maximum(frontier, torch.tensor(n - 3)):
            found = update(form, transition, r, frontier, precision, end)
            exact = plainly(monkeypatch, update, form, double, r.double(), frontier, precision.double(), end)
            # A few hundred roundings, amplified little: the matrices are random and their products bounded by damping;
            # those of undamped mates (precision 0) grow to `scale`.
            scale = exact.abs().amax((0, -1), keepdim=True).clamp(min=1)
            assert ((found.double() - exact) / scale).abs().max() <= 2000 * torch.finfo(dtype).eps, (name, end)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33])
def test_nothing_is_written_beyond_the_results(dtype, width):
    n, count = 21, 3
    j, r = torch.randn(n, count, width, width, dtype=dtype), torch.randn(n, count, width, dtype=dtype)
    q, free = torch.full((count,), 0.1, dtype=dtype), torch.ones(n, count, dtype=torch.bool)
    d, predicted = torch.full((2, n * count * width + 16), torch.nan, dtype=dtype)
    given, sizes = [x.data_ptr() for x in (j, r, q, free, d[8:])], (n, count)
    for back in 0, 1:
        function("kalman", "matrices", dtype, 17)(*given, *sizes, 1, width, *j.stride(), 0, back, 0, 1)
        function("kalman", "diagonal", dtype, 11)(*given, predicted[8:].data_ptr(), *sizes, width, j.stride(0), 1)
        for memory in d, predicted:
            assert memory[8:-8].isfinite().all()
            assert memory[:8].isnan().all()
            assert memory[-8:].isnan().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width"), [(600, 8), (40, 20)])
def test_results_do_not_depend_on_mates_cuts_threads_or_memory(form, dtype, n, width, monkeypatch):
    """To the bit."""
    batch = (19,)
    torch.manual_seed(0)
    r, frontier = torch.randn(n, *batch, width, dtype=dtype), torch.randint(-1, n // 3, batch)
    precision = torch.rand(batch, dtype=dtype) * (torch.arange(19) % 3 > 0)
    for name, transition in structures(n, batch, width, dtype).items():
        transition = li.linear.map_leaves(lambda leaf: 0.8 * leaf, transition)  # undamped products stay finite
        whole = update(form, transition, r, frontier, precision)
        some = li.linear.map_leaves(lambda leaf: leaf[:, 4:5], transition)
        assert torch.equal(update(form, some, r[:, 4:5], frontier[4:5], precision[4:5]), whole[:, 4:5]), name
        torch.set_num_threads(2)
        try:
            assert torch.equal(update(form, transition, r, frontier, precision), whole), name
        finally:
            torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            for kept in 0, 70_000:  # the gains of one row, and of some: the smoother filters the others twice
                patch.setattr(compiled, "KEPT", kept)
                assert torch.equal(update(form, transition, r, frontier, precision), whole), name
        if isinstance(form, li.Filter):  # a window ends somewhere: rows after it are of no account
            first = li.linear.take(transition, slice(0, n // 2))
            assert torch.equal(update(form, first, r[: n // 2], frontier, precision), whole[: n // 2]), name
        # and rows before all frontiers are of none either
        later = li.linear.take(transition, slice(7, n))
        start = frontier.clamp(min=7)
        part = update(form, later, r[7:], start - 7, precision)
        whole = update(form, transition, torch.where(torch.arange(n).view(-1, 1, 1) < 7, 0, r), start, precision)
        assert torch.equal(part, whole[7:]), name


@pytest.mark.parametrize("approximation", [li.Newton(), li.QuasiNewton()], ids=["dense", "diagonal"])
@pytest.mark.parametrize("width", [2, 12])
def test_without_damping_it_is_newton(approximation, width):
    matrices, r = given_lds((50, (3,), width), 0)
    lin, zero = linearization(matrices, r), torch.zeros((), dtype=torch.float64)
    newton = proposal(approximation, linearization(matrices, r))
    for form in FORMS:
        found = li.LevenbergMarquardt(1.0, approximation, form).damped(lin, zero)
        torch.testing.assert_close(found, newton, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [7, 16, 24, 40])
def test_wide_states_at_the_edge_of_stability_in_float32(form, width):
    """Jacobians are rotations times 1 +- 0.1, so that products neither grow nor vanish at once."""
    n, generator = 3000, torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(64, width, width, generator=generator, dtype=torch.float64))[0]
    sizes = 1 + 0.2 * (torch.rand(n, 1, 1, generator=generator, dtype=torch.float64) - 0.5)
    matrices, r = turns[torch.arange(n) % 64] * sizes, torch.randn(n, width, generator=generator, dtype=torch.float64)
    precision, frontier = torch.tensor(1e-6, dtype=torch.float64), torch.tensor(-1)
    exact = update(form, li.Dense(matrices), r, frontier, precision)
    single = update(form, li.Dense(matrices.float()), r.float(), frontier, precision.float())
    # 1e-7 of rounding a step, over a memory of about 1000 steps (the root of sigma2).
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [1, 4, 8, 20])
@pytest.mark.parametrize("sigma2", [1e6, 1e30])
def test_what_explodes_stays_in_its_sequence(form, width, sigma2):
    """Of three mates one explodes beyond float32, and one has a NaN in a matrix."""
    matrices, r = (x.float() for x in given_lds((200, (3,), width), 0))
    alone = matrices[:, 2:].clone()
    matrices[:, 0] *= 1e6
    matrices[50, 1] = torch.nan
    for transition in li.Dense(matrices), li.Diagonal(matrices.diagonal(dim1=-2, dim2=-1)):
        precision = torch.tensor(1 / sigma2)
        found = update(form, transition, r, torch.full((3,), -1), precision)
        own = li.Dense(alone) if isinstance(transition, li.Dense) else li.Diagonal(alone.diagonal(dim1=-2, dim2=-1))
        assert torch.equal(found[:, 2:], update(form, own, r[:, 2:], torch.full((1,), -1), precision))
        assert found[60:, 1].isnan().all()
        if isinstance(form, li.Filter):
            assert found[:50, 1].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_expansion_beyond_what_float32_can_keep_does_no_harm(form):
    """Products grow twofold a step with hardly any damping: a dense covariance of float32 is lost; the loop goes on."""
    f = lambda s, u: 2.2 * s.roll(1, -1) / (1 + s * s) + u  # noqa: E731
    u = torch.randn(30, 3, 6, generator=torch.Generator().manual_seed(0))
    solution = li.solve(f, torch.zeros(3, 6), u, li.LevenbergMarquardt(1e12, form=form), rtol=0, atol=0)
    assert (solution.residual == 0).all()
    assert (solution.iterations <= 30).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "approximation", [li.Newton(), li.QuasiNewton(), li.BlockNewton(2)], ids=["dense", "diagonal", "block"]
)
@pytest.mark.parametrize("window", [None, 16])
def test_batches_solve_as_their_members_do(form, approximation, window):
    """States to the bit, counts exactly, in a window too; with a damping of each one's own."""
    f = lambda s, u: torch.tanh(0.9 * s + 0.8 * s.roll(1, -1) + u)  # noqa: E731
    u = torch.randn(45, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u[:, 1] *= 3
    options = {} if window is None else {"window": window}
    for method in (
        li.LevenbergMarquardt(30.0, approximation, form),
        li.TrustRegion(li.LevenbergMarquardt(1.0, approximation, form)),
    ):
        together = li.solve(f, torch.zeros(3, 4).double(), u, method, **options)
        truth = li.sequential(f, torch.zeros(3, 4).double(), u)
        torch.testing.assert_close(together.states, truth, rtol=1e-7, atol=1e-7)
        for mate in range(3):
            alone = li.solve(f, torch.zeros(1, 4).double(), u[:, mate : mate + 1], method, **options)
            assert torch.equal(alone.states[:, 0], together.states[:, mate])
            assert int(alone.iterations) == int(together.iterations[mate])


def test_a_trust_region_takes_as_many_iterations_as_by_scans(monkeypatch):
    """The sine network at the edge of stability, whose precision is annealed over twelve decades."""
    problem = sine(500, 0, torch.float64)
    run = lambda: li.solve(  # noqa: E731
        problem.f, problem.s0, problem.inputs, li.TrustRegion(li.LevenbergMarquardt(1.0)), guess=problem.guess
    )
    fast, plain = run(), plainly(monkeypatch, run)
    assert fast.converged
    assert abs(int(fast.iterations) - int(plain.iterations)) <= 1  # rounding may move a threshold
    torch.testing.assert_close(fast.states, plain.states, rtol=1e-6, atol=1e-6)


def test_where_it_does_not_serve():
    transition, r = li.Dense(torch.eye(3).expand(5, 3, 3)), torch.ones(5, 3)
    q, free = torch.tensor(0.1), torch.ones(5, 1, dtype=torch.bool)
    assert compiled.filtered(transition, r, q, free) is not None
    with torch.enable_grad():
        assert compiled.filtered(transition, r, q, free) is None
    assert compiled.filtered(transition, r.half(), q.half(), free) is None
    assert compiled.filtered(li.Dense(transition.matrix.to("meta")), r.to("meta"), q.to("meta"), free) is None
    refused = torch.func.vmap(lambda x: torch.tensor(compiled.filtered(transition, x, q, free) is None))
    assert refused(r.expand(2, 5, 3)).all()
    f, u = tanh_rnn(4), torch.randn(20, 4, dtype=torch.float64)
    with torch.enable_grad():
        inputs = u.requires_grad_()
        s0, method = torch.zeros(4).double(), li.LevenbergMarquardt(10.0)
        li.solve(f, s0, inputs, method, adjoint=li.Unroll()).states.sum().backward()
        expected = torch.autograd.grad(li.sequential(f, s0, inputs).sum(), inputs)[0]
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-5, atol=1e-6)
