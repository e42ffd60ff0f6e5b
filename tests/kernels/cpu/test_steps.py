"""Steps of the compiled cells and their gradients, against a plain loop of torch operations and autograd."""

import pytest
import torch
from torch.autograd import Function

import lds_iter as li
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.steps import steps, steps_gradients

DTYPES = [torch.float32, torch.float64]
CELLS = {
    "gru": cells.COMPILED_GRU, "lstm": cells.COMPILED_LSTM, "tanh": cells.COMPILED_RNN_TANH,
    "relu": cells.COMPILED_RNN_RELU,
}  # fmt: skip
KINDS = [("gru", None), ("lstm", None), ("lstm", 1), ("lstm", 6), ("tanh", None), ("relu", None)]
SIZES = [
    (0, 5, (2,)),
    (1, 1, ()),
    (1, 9, (3,)),
    (37, 8, (1,)),
    (130, 3, ()),
    (9, 16, (0,)),
    (23, 33, (2, 3)),
    (7, 70, (3,)),
]

pytestmark = pytest.mark.skipif(
    function("gru_steps", "steps", torch.float32, 9) is None, reason="no C++ compiler, or turned off"
)


def loop(cell, s0, tensors, projection=None):
    """The plain loop: the equations of torch's cells."""
    gates, rest = tensors[: cell.gates], tensors[cell.gates :]
    s, states = s0, [s0.unsqueeze(0)[:0]]
    for row in zip(*gates, strict=True):
        h = s[..., :: cell.parts]
        fed = h if projection is None else h @ projection.T
        products = [fed @ weight.T for weight in rest[: cell.gates]]
        if cell is cells.COMPILED_GRU:
            r, z = (row[0] + products[0]).sigmoid(), (row[1] + products[1]).sigmoid()
            n = (row[2] + r * (products[2] + rest[3])).tanh()
            s = n + z * (h - n)
        elif cell is cells.COMPILED_LSTM:
            i, f, g, o = (u + product for u, product in zip(row, products, strict=True))
            c = f.sigmoid() * s[..., 1::2] + i.sigmoid() * g.tanh()
            s = torch.stack([o.sigmoid() * c.tanh(), c], -1).flatten(-2)
        else:
            s = (row[0] + products[0]).tanh() if cell is cells.COMPILED_RNN_TANH else (row[0] + products[0]).relu()
        states.append(s.unsqueeze(0))
    return torch.cat(states)


def problem(kind, length, width, batch, dtype, projected=None):
    """A cell, its first state, its tensors and its projection; weights as torch begins with, so that errors die out."""
    cell, columns = CELLS[kind], width if projected is None else projected
    u = [torch.randn(length, *batch, width, dtype=dtype) for _ in range(cell.gates)]
    weights = [torch.randn(width, columns, dtype=dtype) / (2 * columns**0.5) for _ in range(cell.gates)]
    bias = [torch.randn(width, dtype=dtype)] if kind == "gru" else []
    projection = None if projected is None else torch.randn(projected, width, dtype=dtype) / width**0.5
    return cell, torch.randn(*batch, cell.parts * width, dtype=dtype), (*u, *weights, *bias), projection


def flat(gradients):
    every = (gradients.s0, *gradients.inputs, *gradients.matrices, gradients.inner_bias, gradients.projection)
    return [gradient for gradient in every if gradient is not None]


def poisoned(x):
    """The same numbers, with NaN around them in memory and other numbers between."""
    room = torch.full((x.numel() * 2 + 64,), torch.nan, dtype=x.dtype)
    view = room[32 : 32 + 2 * x.numel()].view(*x.shape, 2)[..., 0]
    return view.copy_(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "projected"), KINDS)
@pytest.mark.parametrize(("length", "width", "batch"), SIZES)
def test_states_and_gradients_are_those_of_the_loop(length, width, batch, kind, projected, dtype):
    cell, s0, tensors, projection = problem(kind, length, width, batch, dtype, projected)
    leaves = [s0, *tensors] + ([] if projection is None else [projection])
    exact = [leaf.double().clone().requires_grad_() for leaf in leaves]
    wanted = loop(cell, exact[0], tuple(exact[1 : 1 + len(tensors)]), None if projection is None else exact[-1])
    found = steps(cell, s0, tensors, projection)
    assert found.shape == wanted.shape
    # sums of up to 70 products of order 1, then functions of slope up to 1; contracting, so errors do not grow
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=0, atol=200 * torch.finfo(dtype).eps)
    g = torch.randn_like(found)
    gradients = flat(steps_gradients(cell, s0, found, tensors, g, projection))
    for mine, theirs in zip(
        gradients, torch.autograd.grad(wanted, exact, g.double(), materialize_grads=True), strict=True
    ):
        # sums over all steps and batch elements of products of such errors, relative to the largest
        bound = 4000 * torch.finfo(dtype).eps * float(theirs.abs().amax().clamp(min=1)) if theirs.numel() else 0
        assert mine.shape == theirs.shape
        assert not mine.numel() or float((mine.double() - theirs.detach()).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "projected"), KINDS)
def test_to_the_bit_whatever_is_beside_it(kind, projected, dtype):
    """Repeats, strides, poisoned memory, other batch elements, threads and cuts in time change nothing."""
    cell, s0, tensors, projection = problem(kind, 701, 13, (5,), dtype, projected)
    whole = steps(cell, s0, tensors, projection)
    assert torch.equal(steps(cell, s0, tensors, projection), whole)
    apart = tuple(poisoned(tensor) for tensor in tensors)
    assert torch.equal(steps(cell, poisoned(s0), apart, None if projection is None else poisoned(projection)), whole)
    some = (*(u[:, 2:3] for u in tensors[: cell.gates]), *tensors[cell.gates :])
    assert torch.equal(steps(cell, s0[2:3], some, projection), whole[:, 2:3])
    first = (*(u[:333] for u in tensors[: cell.gates]), *tensors[cell.gates :])
    rest = (*(u[333:] for u in tensors[: cell.gates]), *tensors[cell.gates :])
    assert torch.equal(steps(cell, steps(cell, s0, first, projection)[-1], rest, projection), whole[333:])
    g = torch.randn_like(whole)
    gradients = steps_gradients(cell, s0, whole, tensors, g, projection)
    torch.set_num_threads(2)  # reset by a fixture before the next test
    assert torch.equal(steps(cell, s0, tensors, projection), whole)
    again = steps_gradients(cell, s0, poisoned(whole), apart, poisoned(g), projection)
    assert torch.equal(again.s0, gradients.s0)
    assert all(torch.equal(mine, other) for mine, other in zip(again.inputs, gradients.inputs, strict=True))


@pytest.mark.parametrize("kind", CELLS)
def test_wide_cells_share_their_channels_between_threads(kind):
    """One sequence, 700 channels: beyond the width of compiled iterations, and wide enough for two threads."""
    cell, s0, tensors, _ = problem(kind, 6, 700, (), torch.float64)
    alone = steps(cell, s0, tensors)
    torch.testing.assert_close(alone, loop(cell, s0, tensors), rtol=0, atol=1e-13)
    g = torch.randn_like(alone)
    gradients = steps_gradients(cell, s0, alone, tensors, g)
    torch.set_num_threads(2)
    assert torch.equal(steps(cell, s0, tensors), alone)
    again = steps_gradients(cell, s0, alone, tensors, g)
    assert torch.equal(again.s0, gradients.s0)
    assert all(torch.equal(mine, other) for mine, other in zip(again.inputs, gradients.inputs, strict=True))


def test_expanded_inputs():
    cell, s0, tensors, _ = problem("gru", 12, 6, (4,), torch.float64)
    shared = tuple(u[:, :1] for u in tensors[:3])
    wanted = steps(cell, s0, (*(u.expand(12, 4, 6) for u in shared), *tensors[3:]))
    assert torch.equal(steps(cell, s0, (*shared, *tensors[3:])), wanted)


def test_what_compiled_code_cannot_serve():
    cell, s0, tensors, _ = problem("gru", 12, 6, (4,), torch.float64)
    assert steps(cell, s0.float(), tensors) is None
    assert steps(cell, s0.to("meta"), tensors) is None
    assert steps(cell, s0[:3], tensors) is None  # another batch
    assert steps(cell, s0[..., :5], tensors) is None  # another width
    assert torch.func.vmap(lambda s: torch.tensor(steps(cell, s, tensors) is None))(s0).all()


class Stepped(Function):
    """Steps with their gradients, as layers put them together."""

    @staticmethod
    def forward(ctx, kind, projected, s0, *leaves):
        tensors, projection = (leaves, None) if projected is None else (leaves[:-1], leaves[-1])
        states = steps(CELLS[kind], s0, tensors, projection)
        ctx.given = kind, tensors, projection
        ctx.save_for_backward(s0, states)
        return states

    @staticmethod
    def backward(ctx, g):
        kind, tensors, projection = ctx.given
        s0, states = ctx.saved_tensors
        return None, None, *flat(steps_gradients(CELLS[kind], s0, states, tensors, g, projection))


@pytest.mark.parametrize(("kind", "projected"), KINDS)
def test_gradients_against_finite_differences(kind, projected):
    _, s0, tensors, projection = problem(kind, 4, 3, (2,), torch.float64, projected)
    leaves = [leaf.requires_grad_() for leaf in (s0, *tensors, *(() if projection is None else (projection,)))]
    assert torch.autograd.gradcheck(lambda *given: Stepped.apply(kind, projected, *given), leaves)


def test_no_gradients_of_weights_where_none_are_wanted():
    cell, s0, tensors, _ = problem("lstm", 12, 6, (4,), torch.float64)
    states = steps(cell, s0, tensors)
    found = steps_gradients(cell, s0, states, tensors, torch.ones_like(states), matrices=False)
    assert found.matrices is found.inner_bias is found.projection is None
    assert len(found.inputs) == 4


def test_inf_and_nan_come_through():
    cell, s0, tensors, _ = problem("tanh", 12, 6, (3,), torch.float32)
    tensors[0][4, 1, 0], tensors[0][5, 2, 0] = torch.nan, torch.inf
    states = steps(cell, s0, tensors)
    assert states[4:, 1, 0].isnan().all()
    assert states[:, 0].isfinite().all()
    assert states[5, 2, 0] == 1


def test_threads_that_are_not_needed_are_not_asked_for():
    """A forked process, where they would hang, takes short sequences with two threads allowed."""
    cell, s0, tensors, _ = problem("gru", 3, 4, (2,), torch.float32)
    torch.set_num_threads(2)
    assert torch.equal(steps(cell, s0, tensors), steps(cell, s0, tensors))
    assert li.kernels.cpu.status()["gru_steps"].endswith(".so")
