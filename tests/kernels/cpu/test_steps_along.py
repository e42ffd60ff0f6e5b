"""Steps that make the products of their inputs on the way, against the same steps on products of torch's."""

import pytest
import torch
import torch.nn.functional as F

import lds_iter as li
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.steps import InputWeights, steps, steps_along

CELLS = {
    "gru": cells.COMPILED_GRU, "lstm": cells.COMPILED_LSTM, "tanh": cells.COMPILED_RNN_TANH,
    "relu": cells.COMPILED_RNN_RELU,
}  # fmt: skip
SIZES = [(0, 5, 2, (2,)), (1, 1, 1, ()), (1, 9, 4, (3,)), (700, 8, 8, (1,)), (130, 3, 17, ()), (9, 16, 2, (0,)),
         (23, 33, 5, (2, 3)), (7, 70, 100, (3,))]  # fmt: skip

pytestmark = pytest.mark.skipif(
    function("gru_steps", "steps", torch.float32, 9) is None, reason="no C++ compiler, or turned off"
)


def problem(kind, length, width, features, batch, dtype, biased=True):
    """A cell, its first state, its sequence, the weights that read it, and the recurrent ones, of torch's sizes."""
    cell, scale = CELLS[kind], width**-0.5
    x, s0 = torch.randn(length, *batch, features, dtype=dtype), torch.randn(*batch, cell.parts * width, dtype=dtype)
    matrix = scale * torch.randn(cell.gates * width, features, dtype=dtype)
    bias = torch.randn(cell.gates * width, dtype=dtype) if biased else None
    inner = [torch.randn(width, dtype=dtype)] if kind == "gru" else []
    recurrent = [scale / 2 * torch.randn(width, width, dtype=dtype) for _ in range(cell.gates)]
    return cell, s0, x, InputWeights(matrix, bias), (*recurrent, *inner)


def by_products(cell, s0, x, read, weights):
    return steps(cell, s0, (*F.linear(x, read.matrix, read.bias).chunk(cell.gates, -1), *weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("length", "width", "features", "batch"), SIZES)
def test_states_are_those_of_steps(kind, length, width, features, batch, biased, dtype):
    cell, s0, x, read, weights = problem(kind, length, width, features, batch, dtype, biased)
    found = steps_along(cell, s0, x, read, weights)
    # sums of up to 100 products of order 1, in another order
    torch.testing.assert_close(
        found, by_products(cell, s0, x, read, weights), rtol=0, atol=400 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("width", [13, 16])
def test_to_the_bit_whatever_is_beside_it(kind, width):
    """Strides, other batch elements, threads and cuts in time change nothing."""
    cell, s0, x, read, weights = problem(kind, 701, width, 3, (5,), torch.float32)
    whole = steps_along(cell, s0, x, read, weights)
    assert torch.equal(steps_along(cell, s0, x.transpose(0, 1).contiguous().transpose(0, 1), read, weights), whole)
    assert torch.equal(steps_along(cell, s0[2:3], x[:, 2:3], read, weights), whole[:, 2:3])
    first = steps_along(cell, s0, x[:333], read, weights)
    assert torch.equal(steps_along(cell, first[-1], x[333:], read, weights), whole[333:])
    torch.set_num_threads(2)  # reset by a fixture before the next test
    assert torch.equal(steps_along(cell, s0, x, read, weights), whole)


def test_wide_cells_share_their_channels_between_threads():
    cell, s0, x, read, weights = problem("gru", 40, 700, 9, (), torch.float64)
    alone = steps_along(cell, s0, x, read, weights)
    torch.set_num_threads(2)
    assert torch.equal(steps_along(cell, s0, x, read, weights), alone)


def test_what_compiled_code_cannot_serve():
    cell, s0, x, read, weights = problem("gru", 12, 6, 3, (4,), torch.float64)
    assert steps_along(cell, s0.float(), x, read, weights) is None
    assert steps_along(cell, s0[:3], x, read, weights) is None  # another batch
    assert steps_along(cell, s0, x[..., :2], read, weights) is None  # another number of features
    assert steps_along(cell, s0, x[..., :0], InputWeights(read.matrix[:, :0], None), weights) is None
    assert steps_along(cell, s0, x, InputWeights(read.matrix, read.bias[:-1]), weights) is None
    assert steps_along(cell, s0[..., :5], x, read, weights) is None  # another width


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_layers_without_a_graph_agree_with_layers_that_record_one(kind):
    """The forward that autograd records keeps the products of the inputs, the other one does not make them at all."""
    layer = getattr(li.nn, kind)(3, 20, num_layers=2, bidirectional=True)
    x = torch.randn(50, 4, 3)
    lengths = torch.tensor([50, 31, 7, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    for given in (x, packed):
        recorded = layer(given)[0]
        with torch.no_grad():
            plain = layer(given)[0]
        one, other = (y if isinstance(y, torch.Tensor) else y.data for y in (recorded, plain))
        assert one.requires_grad
        assert not other.requires_grad
        torch.testing.assert_close(other, one.detach(), rtol=0, atol=1e-5)  # float32, two layers


LONG = 13_000
"""Steps that three threads take in chunks of more than `LEAST_CHUNK` of `cell_chunks.h`."""


def remembering(kind, width, batch, since):
    """A cell whose state is kept, or nearly so, from step `since` on; before, it forgets."""
    cell, s0, x, read, weights = problem(kind, LONG, width, 1, batch, torch.float32)
    x[since:] = 0
    matrix, bias = torch.zeros_like(read.matrix), torch.full_like(read.bias, 30.0)  # every gate open where x is 0
    matrix[:, 0] = -30.0
    x[:since] = 1 + 0.01 * x[:since]
    if kind in ("tanh", "relu"):
        matrix, bias, x = matrix.fill_(1.0), bias.zero_(), x * 0.01
        return cell, s0, x, InputWeights(matrix, bias), (torch.eye(width),)
    return cell, s0, x, InputWeights(matrix, bias), weights


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("batch", [(1,), (2,)])
@pytest.mark.parametrize("since", [None, 0, 300, 6000])
def test_chunks_of_time_change_no_bit(kind, batch, since):
    """Whether a cell forgets, remembers, or begins to remember after a while."""
    cell, s0, x, read, weights = (
        problem(kind, LONG, 8, 3, batch, torch.float32) if since is None else remembering(kind, 8, batch, since)
    )
    alone = steps_along(cell, s0, x, read, weights)
    torch.set_num_threads(3)  # reset by a fixture before the next test
    assert torch.equal(steps_along(cell, s0, x, read, weights), alone)
    gates = F.linear(x, read.matrix, read.bias).chunk(cell.gates, -1)
    among = steps(cell, s0, (*gates, *weights))
    torch.set_num_threads(1)
    assert torch.equal(steps(cell, s0, (*gates, *weights)), among)
