"""Sizes at which 32 bits or one side of a grid do not suffice: offsets, and ten million time steps.

By Triton's interpreter, whose numbers wrap around as those of a GPU do, on memory that takes room where it is touched.
"""

import pytest
import torch

import lds_iter as li

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from triton.runtime.interpreter import GridExecutor

from lds_iter.kernels.triton.cells import gru_step, lstm_step, rnn_step
from lds_iter.kernels.triton.scans import block_scan, dense_scan, single_pass
from lds_iter.linear.transitions import BlockDiagonal, Dense, Diagonal

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="by the interpreter; on a GPU see `bench.gpu`")

PLACES = 2**31 - 1
"""Of the first side of a grid; the others have 65,535."""

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""In float32 a few units in the last place (6e-8) of sums of up to 10 terms of size 1."""


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Chunks of 8 rows: the interpreter walks through whole ones."""
    for scan_, short in (block_scan.scan_, {"length": 8, "tile": 2}), (dense_scan.scan_, {"length": 8}):
        monkeypatch.setattr(scan_, "__kwdefaults__", {**scan_.__kwdefaults__, **short})


@pytest.fixture(name="sparse")
def _sparse(tmp_path):
    """Makes a tensor with strides of any size: a file with holes."""

    def make(shape, strides, dtype=torch.float32):
        size = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return torch.from_file(str(file), shared=True, size=size, dtype=dtype).as_strided(shape, strides)

    return make


FAR = 2**29 + 1
"""A stride that fits 32 bits, of which a multiple by 4 or more does not."""

KERNELS = {
    "single pass": (single_pass.scan_, 1, torch.float32),
    "single pass, 2x2": (single_pass.scan_, 2, torch.float32),
    "three launches": (block_scan.scan_, 1, torch.float64),
    "three launches, 4x4": (block_scan.scan_, 4, torch.float32),
    "full matrices": (dense_scan.scan_, 8, torch.float32),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("side", ["time", "state"])
def test_offsets_beyond_32_bits_are_read_and_written_where_they_are(name, side, sparse):
    scan_, size, dtype = KERNELS[name]
    n, width = 9, 8
    x = sparse((n, 1, width), (FAR, 1, 1) if side == "time" else (1, 1, FAR), dtype)
    shape = (n, 1, width, width) if size == 8 else (n, 1, width // size, size, size)
    a = (2 * torch.rand(shape, dtype=dtype) - 1) / size**0.5
    if side == "time":
        strides = [FAR, *a.stride()[1:]]
    else:  # the last side, but for diagonals, which have one number there
        strides = {1: [1, 1, FAR, 1, 1], 8: [1, 1, n, FAR]}.get(size, [1, 1, n * size, n, FAR])
    placed = sparse(shape, strides, dtype)
    placed.copy_(a)
    b = torch.randn(n, 1, width, dtype=dtype)
    x.copy_(b)
    initial = torch.randn(1, width, dtype=dtype)
    transition = Dense(a) if size == 8 else BlockDiagonal(a) if size > 1 else Diagonal(a.view(n, 1, width))
    expected = b.clone()
    li.reference_scan(transition, expected, initial)
    scan_(placed, x, initial, False)
    torch.testing.assert_close(x.clone(), expected, **CLOSE)


def grids(monkeypatch, run):
    """The grids of what `run` launches; nothing is computed."""
    found = []
    monkeypatch.setattr(GridExecutor, "__call__", lambda self, *given, **named: found.append(self.grid))
    run()
    return found


def empty(*shape, dtype=torch.float32):
    """A tensor of any size that takes no memory."""
    return torch.zeros((), dtype=dtype).expand(shape)


STEPS = 10_000_000


@pytest.mark.parametrize("name", KERNELS)
def test_ten_million_steps_of_many_columns_fit_the_grid(name, monkeypatch):
    """In chunks of 8 rows too, which makes more programs than those of a device, of 32 and more."""
    scan_, size, dtype = KERNELS[name]
    a = empty(STEPS, 1, 64, 64, dtype=dtype) if size == 8 else empty(STEPS, 1, 8, size, size, dtype=dtype)
    x = empty(STEPS, 1, 64 if size == 8 else 8 * size, dtype=dtype)
    found = grids(monkeypatch, lambda: scan_(a, x, None, False))
    assert found
    for grid in found:
        assert len(grid) == 1
        assert grid[0] <= PLACES


@pytest.mark.parametrize("name", ["three launches", "full matrices"])
def test_more_columns_and_sequences_than_the_second_side_of_a_grid_has_fit_the_first(name, monkeypatch):
    scan_, size, dtype = KERNELS[name]
    a = empty(3, 70_000, 8, 8, dtype=dtype) if size == 8 else empty(3, 1, 9_000_000, 1, 1, dtype=dtype)
    x = empty(3, 70_000, 8, dtype=dtype) if size == 8 else empty(3, 1, 9_000_000, dtype=dtype)
    assert all(len(grid) == 1 for grid in grids(monkeypatch, lambda: scan_(a, x, None, False)))


def test_steps_and_iterations_count_their_programs_on_one_side(monkeypatch):
    n, batch, width = 3, 70_000, 2
    states, pairs, u = empty(n + 1, batch, width), empty(n + 1, batch, 2 * width), [empty(n, batch, width)] * 4
    weight, lo = empty(4 * width, width), torch.zeros(batch, dtype=torch.int64)
    rows = {"start": 0, "lo": lo, "hi": lo + n, "rtol": 0.0, "atol": 1e-5}
    one, two = {"new": states[1:], "s0": states[0], **rows}, {"new": pairs[1:], "s0": pairs[0], **rows}
    gates, three, own = (u[0], u[1], u[2]), weight[: 3 * width], weight[:width]
    for run in (
        lambda: gru_step.step(states[1:], gates, three, weight[0]),
        lambda: lstm_step.step(pairs[1:], u, weight),
        lambda: rnn_step.step(states[1:], u[0], own, False),
        lambda: gru_step.gru_iteration(states, gates, three, weight[0], **one),
        lambda: lstm_step.lstm_iteration(pairs, u, weight, **two),
        lambda: rnn_step.rnn_iteration(states, u[0], own, False, **one),
    ):
        found = grids(monkeypatch, run)
        assert found[0][0] >= batch
        assert all(len(grid) == 1 and grid[0] <= PLACES for grid in found)
