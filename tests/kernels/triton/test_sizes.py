"""Sizes at which 32 bits or one side of a grid do not suffice: offsets, and ten million time steps.

By Triton's interpreter, whose numbers wrap around as those of a GPU do, on memory that takes room where it is touched.
"""

import ast
import math
from pathlib import Path

import pytest
import torch

import lds_iter as li

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from triton.runtime.interpreter import GridExecutor, interpreter_builder

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


FEW = 4
"""Time steps that fit one program, so that no program waits for another."""

CELLS = {
    "GRU step": (lambda s, u, w, rest: gru_step.step(s[1:], (u[0], u[1], u[2]), w[:48], w[0])[0], 1),
    "LSTM step": (lambda s, u, w, rest: lstm_step.step(s[1:], u, w)[0], 2),
    "RNN step": (lambda s, u, w, rest: rnn_step.step(s[1:], u[0], w[:16], False)[0], 1),
    "GRU iteration": (lambda s, u, w, rest: gru_step.gru_iteration(s, (u[0], u[1], u[2]), w[:48], w[0], **rest), 1),
    "LSTM iteration": (lambda s, u, w, rest: lstm_step.lstm_iteration(s, u, w, **rest), 2),
    "RNN iteration": (lambda s, u, w, rest: rnn_step.rnn_iteration(s, u[0], w[:16], False, **rest), 1),
}
"""Each launch of a cell at a width of 16, from `(n + 1, B, K D)` states, and K."""


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_sequences_that_lie_beyond_32_bits(name, sparse, monkeypatch):
    """Of a batch of forty million sequences the last one alone is computed, as a batch of its own is."""
    run, size = CELLS[name]
    batch, width = 40_000_000, 16
    states = torch.randn(FEW + 1, 1, size * width)
    u, weight = [torch.randn(FEW, 1, width) for _ in range(4)], torch.randn(4 * width, width) / 8

    def last_of(tensor):
        """A tensor of the whole batch, contiguous, whose last sequence this is."""
        shape = (tensor.shape[0], batch, tensor.shape[-1])
        whole = sparse(shape, (batch * shape[-1], shape[-1], 1), tensor.dtype)
        whole[:, -1:] = tensor
        return whole

    def rest(states, new):
        lo, hi = (sparse((states.shape[1],), (1,), torch.int64) for _ in range(2))
        hi[-1] = FEW
        return {"new": new, "s0": states[0], "start": 0, "lo": lo, "hi": hi, "rtol": 0.0, "atol": 1e-5}

    new = torch.zeros_like(states[1:])
    found = run(states, u, weight, rest(states, new))
    expected = new if name.endswith("iteration") else found
    new = last_of(torch.zeros_like(states[1:]))
    states, u = last_of(states), [last_of(each) for each in u]
    assert states.numel() > 2**31
    with monkeypatch.context() as patched:
        only_the_last(patched, batch, sparse)
        found = run(states, u, weight, rest(states, new))
    found = new if name.endswith("iteration") else found
    torch.testing.assert_close(found[:, -1:].clone(), expected, **CLOSE)
    assert expected.abs().sum() > 0


def only_the_last(monkeypatch, batch, sparse):
    """Of the programs of a launch the last one runs, and takes the last ticket; results are files with holes."""
    at, sides, call = interpreter_builder.set_grid_idx, interpreter_builder.set_grid_dim, GridExecutor.__call__
    empty = torch.Tensor.new_empty

    def one(self, *given, **named):
        assert self.grid == (batch,)
        self.grid = (1,)
        call(self, *given, **named)

    def tickets(words, *, dtype, device):
        made = sparse((words,), (1,), dtype).to(device)
        made[0] = batch - 1
        return made

    def large_in_a_file(like, *shape, **named):
        if named or not all(isinstance(side, int) for side in shape) or math.prod(shape) < 2**31:
            return empty(like, *shape, **named)
        return sparse(shape, [math.prod(shape[1 + side :]) for side in range(len(shape))], like.dtype)

    monkeypatch.setattr(interpreter_builder, "set_grid_dim", lambda x, y, z: sides(batch, y, z))
    monkeypatch.setattr(interpreter_builder, "set_grid_idx", lambda x, y, z: at(batch - 1, y, z))
    monkeypatch.setattr(GridExecutor, "__call__", one)
    monkeypatch.setattr(torch, "empty_like", lambda like: sparse(like.shape, like.stride(), like.dtype))
    monkeypatch.setattr(torch.Tensor, "new_empty", large_in_a_file)
    monkeypatch.setattr(torch, "zeros", tickets)


@pytest.mark.parametrize("name", CELLS)
def test_ten_million_steps_of_a_cell_fit_the_grid(name, monkeypatch):
    run, size = CELLS[name]
    states, u = empty(STEPS + 1, 3, size * 16), [empty(STEPS, 3, 16)] * 4
    weight, lo = empty(64, 16), torch.zeros(3, dtype=torch.int64)
    rest = {"new": states[1:], "s0": states[0], "start": 0, "lo": lo, "hi": lo + STEPS, "rtol": 0.0, "atol": 1e-5}
    monkeypatch.setattr(torch, "zeros", lambda words, **named: lo)
    monkeypatch.setattr(torch, "empty_like", lambda like: like)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda like, *shape, **named: like[:1])
    found = grids(monkeypatch, lambda: run(states, u, weight, rest))
    assert found
    for grid in found:
        assert len(grid) == 1
        assert grid[0] <= PLACES


def test_no_launch_is_left_out():
    """The modules that launch kernels are those of this file, and each launches what is tested here."""
    launching = {
        path.stem: sum(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) for node in ast.walk(ast.parse(text))
        )
        for path in (Path(li.__file__).parent / "kernels" / "triton").rglob("*.py")
        if "triton.jit" in (text := path.read_text())
    }
    launching = {name: count for name, count in launching.items() if count}
    assert launching == {
        "single_pass": 1, "block_scan": 2, "dense_scan": 1,
        "gru_step": 1, "lstm_step": 1, "rnn_step": 1, "settling": 2,
    }  # fmt: skip
