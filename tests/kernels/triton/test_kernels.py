"""Triton kernels: by the interpreter on a CPU, on the device itself where there is a GPU, always against the reference.

Short chunks make short sequences span many of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lds_iter as li
from bench.kernels import bytes_moved as kernel_bytes
from bench.kernels import measure as bench
from bench.kernels import page as kernels_page
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.kernels.triton.scans import cuda
from lds_iter.linear import registry
from lds_iter.linear.transitions import leaves, map_leaves

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from lds_iter.kernels.triton.scans import (
    block_scan,  # they import Triton
    dense_scan,  # they import Triton
    look_back,  # they import Triton
    single_pass,  # they import Triton
)

ROOT = Path(__file__).parents[3]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# As in tests/test_scan.py: float64, so that what is left is rounding.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

TOLERANCES = {torch.float64: CLOSE, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}
"""In float32 a few units in the last place (6e-8) of sums of up to 100 terms of size 1."""


@pytest.fixture(autouse=True)
def _poisoned_and_short(monkeypatch):
    """Chunks of 8 rows, two to a tile or group, memory that is NaN where it is not written, kernels on this device."""
    monkeypatch.setattr(block_scan, "LENGTH", 8)
    monkeypatch.setattr(block_scan, "TILE", 2)
    monkeypatch.setattr(dense_scan, "LENGTH", 8)
    monkeypatch.setattr(single_pass, "ROWS", {1: 4, 2: 4})
    monkeypatch.setattr(single_pass, "SUBS", {1: 2, 2: 2})
    monkeypatch.setattr(look_back, "GROUP", 2)
    others = {key: kernel for key, kernel in registry._KERNELS.items() if key[1] != DEVICE}
    monkeypatch.setattr(registry, "_KERNELS", others)
    for structure in li.Diagonal, li.ScaledIdentity, li.Identity, li.BlockDiagonal, li.Dense:
        li.register_scan(structure, DEVICE)(cuda.triton_scan)
        registry.register_reverse_scan(structure, DEVICE)(cuda.triton_reverse_scan)
    torch.use_deterministic_algorithms(True)  # fills what `empty` gives with NaN
    yield
    torch.use_deterministic_algorithms(False)


def uniform(*shape, dtype=torch.float64):
    return (2 * torch.rand(*shape, dtype=torch.float64) - 1).to(DEVICE, dtype)


def structures(n, batch, width, dtype=torch.float64):
    """What the kernels serve."""
    return {
        "diagonal": li.Diagonal(uniform(n, *batch, width, dtype=dtype)),
        "block-2": li.BlockDiagonal(uniform(n, *batch, width // 2, 2, 2, dtype=dtype)),
        "block-3": li.BlockDiagonal(uniform(n, *batch, width // 3, 3, 3, dtype=dtype) / 1.5),
        "block-4": li.BlockDiagonal(uniform(n, *batch, width // 4, 4, 4, dtype=dtype) / 2),
        "block-6": li.BlockDiagonal(uniform(n, *batch, width // 6, 6, 6, dtype=dtype) / 2),
        "dense": li.Dense(uniform(n, *batch, width, width, dtype=dtype) / width**0.5),
        "scaled": li.ScaledIdentity(uniform(n, *batch, 1, dtype=dtype)),
        "scaled-number": li.ScaledIdentity(0.7),
        "identity": li.Identity(),
    }


NAMES = list(structures(1, (), 12))


def poisoned(x):
    """The same numbers in the middle of NaN, and not contiguous."""
    around = x.new_full([size + 2 for size in x.shape], torch.nan)
    inside = around[tuple(slice(1, -1) for _ in x.shape)]
    inside.copy_(x)
    return around, inside


def expected(transition, b, initial, reverse=False):
    if reverse:
        flipped = map_leaves(lambda leaf: leaf.flip(0), transition)
        return expected(flipped, b.flip(0), initial).flip(0)
    x = b.clone()
    li.reference_scan(transition, x, initial)
    return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 8, 9, 41])
def test_scan_equals_the_reference_on_poisoned_memory(name, n):
    initial = uniform(3, 12)
    transition = map_leaves(lambda leaf: poisoned(leaf)[1], structures(n, (3,), 12)[name])
    around, x = poisoned(uniform(n, 3, 12))
    b = x.clone()
    with torch.no_grad():
        assert li.linear_scan(transition, x, poisoned(initial)[1], out=x) is x
    torch.testing.assert_close(x, expected(transition, b, initial), **CLOSE)
    around[1:-1, 1:-1, 1:-1] = torch.nan
    assert around.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_reverse_scan_without_initial_value_reads_no_first_matrix(name):
    transition, b = structures(19, (2,), 12)[name], uniform(19, 2, 12)
    want = expected(transition, b, None, reverse=True)
    for leaf in leaves(transition):
        leaf[-1] = torch.nan
    with torch.no_grad():  # else copies are flipped, for autograd
        found = li.linear_scan(transition, b, reverse=True)
    torch.testing.assert_close(found, want, **CLOSE)


@pytest.mark.parametrize("name", ["diagonal", "block-2", "scaled-number"])
@pytest.mark.parametrize("batch", [(), (1,), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_batch_shape_and_layout(name, batch, dtype):
    transition = structures(20, batch, 4, dtype)[name]
    transposed = map_leaves(lambda leaf: leaf.transpose(0, -1).contiguous().transpose(0, -1), transition)
    b, initial = uniform(4, *batch, 20, dtype=dtype).movedim(-1, 0).movedim(1, -1), uniform(*batch, 4, dtype=dtype)
    want = expected(transition, b, initial)
    torch.testing.assert_close(li.linear_scan(transposed, b, initial), want, **TOLERANCES[dtype])
    x = b.clone(memory_format=torch.preserve_format)
    cuda.triton_scan(transposed, x, initial)
    torch.testing.assert_close(x, want, **TOLERANCES[dtype])


@pytest.mark.parametrize("shape", [(1, 2, 4), (20, 1, 4), (20, 2, 1), (1, 1, 1)])
def test_expanded_leaves_are_read_where_they_are(shape):
    transition = li.Diagonal(uniform(*shape).expand(20, 2, 4))
    b = uniform(20, 2, 4)
    torch.testing.assert_close(li.linear_scan(transition, b), expected(transition, b, None), **CLOSE)


@pytest.mark.parametrize("name", ["diagonal", "block-2"])
@pytest.mark.parametrize("lowered", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_what_it_reads_and_writes_and_nothing_else(name, lowered):
    transition, b = structures(30, (2,), 4, lowered)[name], uniform(30, 2, 4, dtype=lowered)
    initial = uniform(2, 4, dtype=lowered)
    full = expected(map_leaves(torch.Tensor.double, transition), b.double(), initial.double())
    # Writing rounds by half a unit in the last place, by a whole one where the interpreter cuts bfloat16 off; the inner
    # sums in float32 round far below that.
    error = torch.finfo(lowered).eps * (1.01 if DEVICE == "cpu" else 0.51)
    torch.testing.assert_close(li.linear_scan(transition, b, initial).double(), full, rtol=error, atol=1e-5)
    mixed = li.linear_scan(transition, b.float(), initial.float())
    torch.testing.assert_close(mixed, full.float(), **TOLERANCES[torch.float32])


@pytest.mark.parametrize("name", ["diagonal", "block-2", "block-3", "dense"])
def test_batch_mates_and_later_rows_change_no_bit(name):
    transition = structures(37, (3,), 6, torch.float32)[name]
    b, initial = uniform(37, 3, 6, dtype=torch.float32), uniform(3, 6, dtype=torch.float32)
    whole = li.linear_scan(transition, b, initial)
    for mate in range(3):
        alone = map_leaves(lambda leaf, own=mate: leaf[:, own], transition)
        assert torch.equal(li.linear_scan(alone, b[:, mate], initial[mate]), whole[:, mate])
    for rows in 1, 8, 17, 33:
        shorter = map_leaves(lambda leaf, some=rows: leaf[:some], transition)
        assert torch.equal(li.linear_scan(shorter, b[:rows], initial), whole[:rows])


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_overflowing_product_meets_zero_and_stays_zero(size):
    """A product of matrices may overflow where the solution does not: the exact zeros before a frontier."""
    blocks, b = torch.full((100, 1, size, size), 1e30, device=DEVICE), torch.zeros(100, size, device=DEVICE)
    blocks[70:] = 0.25
    b[70:] = 1
    x = li.linear_scan(li.BlockDiagonal(blocks), b)
    assert torch.equal(x[:70], b[:70])
    torch.testing.assert_close(x[70:], expected(li.BlockDiagonal(blocks[70:]), b[70:], None))


@pytest.mark.parametrize("name", ["diagonal", "block-2", "dense"])
def test_gradients_of_a_scan(name):
    """Against finite differences; the backward pass is the kernel backwards."""
    width = 5 if name == "dense" else 2
    transition, b, initial = structures(9, (), width)[name], uniform(9, width), uniform(width)
    (leaf,) = leaves(transition)

    def scan(leaf, b, initial):
        return li.linear_scan(type(transition)(leaf), b, initial)

    arguments = (leaf.requires_grad_(), b.requires_grad_(), initial.requires_grad_())
    assert torch.autograd.gradcheck(scan, arguments, fast_mode=True)


def test_the_custom_operations_are_well_formed():
    x = uniform(9, 2, 4)
    for initial in None, uniform(2, 4):
        torch.library.opcheck(torch.ops.lds_iter.block_scan_.default, (uniform(9, 2, 4, 1, 1), x, initial, True))
        torch.library.opcheck(torch.ops.lds_iter.dense_scan_.default, (uniform(9, 2, 4, 4), x, initial, False))


def test_it_compiles_to_one_graph():
    transition, b = structures(20, (2,), 4)["diagonal"], uniform(20, 2, 4)

    def scan(leaf, b):
        with torch.no_grad():
            return 2 * li.linear_scan(li.Diagonal(leaf), b)

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(transition.diagonal, b), 2 * expected(transition, b, None), **CLOSE)


def test_what_the_kernels_do_not_serve_takes_the_plain_path(monkeypatch):
    transition, b = li.Diagonal(uniform(5, 2).to(torch.complex64)), uniform(5, 2).to(torch.complex64)
    torch.testing.assert_close(li.linear_scan(transition, b), expected(transition, b, None))
    monkeypatch.setattr(cuda, "TRITON", False)
    monkeypatch.setattr(cuda, "block_scan_", None)
    monkeypatch.setattr(cuda, "dense_scan_", None)
    for name, transition in structures(5, (2,), 12).items():
        b = uniform(5, 2, 12)
        for reverse in False, True:
            with torch.no_grad():
                found = li.linear_scan(transition, b, reverse=reverse)
            torch.testing.assert_close(found, expected(transition, b, None, reverse), **CLOSE, msg=name)


CELLS = {
    "gru": lambda width: li.nn.GRURecurrence.from_module(torch.nn.GRU(2, width)),
    "lstm": lambda width: li.nn.LSTMRecurrence.from_module(torch.nn.LSTM(2, width)),
    "tanh": lambda width: li.nn.RNNRecurrence.from_module(torch.nn.RNN(2, width)),
    "relu": lambda width: li.nn.RNNRecurrence.from_module(torch.nn.RNN(2, width, nonlinearity="relu")),
}

# Float32: a few units in the last place (6e-8) of numbers of size 1, after sums of `width` terms.
ROUNDING = {"rtol": 0, "atol": 2e-6}


def at_random_states(name, n, batch, width):
    """A recurrence with states and pre-activations to evaluate it at."""
    with torch.device(DEVICE):
        f = CELLS[name](width)
        return f, torch.randn(n, *batch, width * (2 if name == "lstm" else 1)), f.inputs(torch.randn(n, *batch, 2))


@pytest.fixture
def fused(monkeypatch):
    """The kernels serve this device."""
    monkeypatch.setattr(cells, "runs_on", lambda state: True)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("n", "batch", "width"), [(1, (), 1), (16, (3,), 5), (37, (2, 2), 20), (5, (1,), 64)])
@torch.no_grad()
def test_a_fused_step_equals_its_derivatives(name, n, batch, width, monkeypatch):
    f, s, u = at_random_states(name, n, batch, width)
    found = f.linearize(s, u)
    monkeypatch.setattr(cells, "runs_on", lambda state: False)
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")  # where this runs on a CPU
    wanted = f.linearize(s, u)
    assert type(found) is not type(wanted)
    torch.testing.assert_close(found.value, wanted.value, **ROUNDING)
    torch.testing.assert_close(found.diagonal(), wanted.diagonal(), **ROUNDING)
    for size in {1, 2} if s.shape[-1] % 2 == 0 else {1}:
        torch.testing.assert_close(found.block_diagonal(size), wanted.block_diagonal(size), **ROUNDING)
    torch.testing.assert_close(found.jacobian(), wanted.jacobian(), **ROUNDING)
    torch.testing.assert_close(found.jvp(s), wanted.jvp(s))
    torch.testing.assert_close(found.vjp(s), wanted.vjp(s))


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@torch.no_grad()
def test_a_network_is_solved_by_the_kernels(kind, monkeypatch):
    """Steps and scans, through the layer; to its tolerance of 1e-5 or so."""
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")  # they, and on a GPU this, would take the whole iteration
    monkeypatch.setattr(getattr(li.nn, f"{kind}Recurrence"), "fused_iteration", lambda *given: None)
    peer = getattr(torch.nn, kind)(3, 4).to(DEVICE)
    layer = getattr(li.nn, kind)(3, 4, method=li.BlockNewton(2) if kind == "LSTM" else li.QuasiNewton()).to(DEVICE)
    layer.load_state_dict(peer.state_dict())
    x, calls = torch.randn(11, 2, 3, device=DEVICE), []
    name = f"{kind.lower()}_step"
    step = getattr(cells, name)
    monkeypatch.setattr(cells, name, lambda *given: calls.append(1) or step(*given))
    torch.testing.assert_close(layer(x)[0], peer(x)[0], rtol=0, atol=1e-4)
    assert len(calls) >= int(layer.last_solution[0].iterations.max())


def test_steps_stay_plain_where_a_gradient_is_wanted_or_the_kernel_does_not_fit(monkeypatch):
    monkeypatch.setattr(cells, "runs_on", lambda state: True)
    state = torch.zeros(3, 64)
    assert not cells.fused(state, torch.zeros(192, 64))
    with torch.no_grad():
        assert cells.fused(state, torch.zeros(192, 64))
        assert not cells.fused(torch.zeros(3, 65), torch.zeros(195, 65))
        assert not cells.fused(state.double(), torch.zeros(192, 64).double())
        monkeypatch.undo()
        assert cells.fused(state, torch.zeros(192, 64)) == (DEVICE == "cuda" and state.is_cuda)


@torch.no_grad()
def test_tanh_is_exact_to_rounding_near_zero_and_far_from_it():
    u = torch.cat([torch.logspace(-6, 2, 200), -torch.logspace(-6, 2, 200)]).to(DEVICE).unsqueeze(-1)
    found = torch.ops.lds_iter.rnn_step(torch.zeros_like(u), u, torch.zeros(1, 1, device=DEVICE), False)[0]
    # Four units in the last place: of the series or the exponential, and of the division.
    torch.testing.assert_close(found, u.double().tanh().float(), rtol=4 * 6e-8, atol=0)


@torch.no_grad()
def test_the_steps_are_well_formed_operations():
    for name, operation in ("gru", "gru_step"), ("lstm", "lstm_step"), ("tanh", "rnn_step"):
        f, s, u = at_random_states(name, 4, (2,), 3)
        gates = (u,) if name == "tanh" else u
        last = {"gru": (f.weights.inner_bias,) if name == "gru" else (), "lstm": (), "tanh": (False,)}[name]
        weight = f.weights.hh
        torch.library.opcheck(getattr(torch.ops.lds_iter, operation).default, (s, *gates, weight.detach(), *last))


@pytest.mark.skipif(DEVICE == "cuda", reason="bytes are counted in the interpreter")
def test_the_bytes_that_are_counted_are_those_of_the_algorithm(monkeypatch):
    """In chunks of 8. A float64 diagonal: a and b twice, x once, 6 numbers for each chunk, or 5 and 6/8 numbers a step.
    A float32 one: three numbers a step, and for each chunk a map of two words, zeroed, written and read."""
    monkeypatch.undo()  # the memory that is filled with NaN would be counted too
    monkeypatch.setattr(block_scan, "LENGTH", 8)
    monkeypatch.setattr(block_scan, "TILE", 2)
    monkeypatch.setattr(single_pass, "ROWS", {1: 4})
    monkeypatch.setattr(single_pass, "SUBS", {1: 2})
    for dtype, launches, bytes_a_step in (torch.float64, 3, 8 * (5 + 6 / 8)), (torch.float32, 2, 4 * 3 + 3 * 2 * 8 / 8):
        counted = []
        for rows in 16, 48:
            a, x = uniform(rows, 1, 3, 1, 1, dtype=dtype), uniform(rows, 1, 3, dtype=dtype)
            counted.append(kernel_bytes.count(lambda a=a, x=x: cuda.block_scan_(a, x, None, False)))
        assert [one.launches for one in counted] == [launches, launches]
        more = counted[1].read + counted[1].written - counted[0].read - counted[0].written
        assert more == 32 * 3 * bytes_a_step


@pytest.mark.parametrize("case", [bench.Case(40, 2, 3), bench.Case(20, 1, 4, 2), bench.Case(20, 1, 5, 5)])
def test_a_row_of_the_benchmark(case, monkeypatch):
    """As on a GPU, but for the clock."""

    def clocked(run):
        run()
        return {"graph": 1.0, "launched": 2.0}

    monkeypatch.setattr(bench, "times", clocked)
    monkeypatch.setattr(bench, "peers", lambda a, b: {})
    row = bench.measure(case, DEVICE)
    assert row["error"] < 1e-5
    assert row["copies"] == 1
    page = kernels_page.section([], {
        "lds_iter": {"torch": "t", "python": "p"}, "device": "d", "long": 1, "bar": 1.3, "scans": [row],
        "steps": [bench.measure_step(4, 20, DEVICE)],
    })  # fmt: skip
    assert "| 1 (2) | 1 (2) |" in page
    assert "await" in kernels_page.section([], {})


def compiled_for(target, only, folder):
    """Launches whose names contain `only`, compiled ahead of time, in a process that does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = [sys.executable, "-m", "bench.registers", "--target", str(target), "--only", only, "--out", str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert not done.returncode, done.stderr
    kept = json.loads((folder / "registers.json").read_text())
    return [row for of in kept["launches"].values() for row in of[str(target)]]


def assert_fit(rows):
    assert rows
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["resident"] > 0, row
        if row["tickets"]:
            # Of each of three levels a first look, and another in the loop; each word is one load or one exchange.
            assert row["tickets"] == 1, row
            assert row["polls"] == row["volatile"] >= 6, row
            assert row["publications"] >= 3, row


def test_a_scan_compiles_for_a_hopper_gpu_within_its_registers(tmp_path):
    rows = compiled_for(90, "diagonal, float32, D = 1", tmp_path)
    assert [row["kernel"] for row in rows] == ["single_pass._scan"]
    assert rows[0]["tickets"]
    assert_fit(rows)
    assert "1 kernels of 1 launches" in (tmp_path / "kernels.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "only", "count"),
    [(90, "iteration, D = 1", 6), (80, "float64, D = 32", 2), (100, "step, D = 50", 3)],
    ids=["H100", "A100", "B200"],
)
def test_kernels_of_every_kind_compile_for_every_gpu_within_its_registers(target, only, count, tmp_path):
    rows = compiled_for(target, only, tmp_path)
    assert len(rows) >= count
    assert_fit(rows)


def test_what_is_kept_of_all_kernels_fits_and_the_page_names_every_spill():
    """`python -m bench.registers` writes both."""
    kept = json.loads((ROOT / "bench/results/registers.json").read_text())
    page = (ROOT / "docs/background/kernels.md").read_text()
    rows = [(launch, target, row) for launch, of in kept["launches"].items() for target in of for row in of[target]]
    spilled = [(launch, target, row["spilled"]) for launch, target, row in rows if row["spilled"]]
    assert len(rows) > 100
    assert all(row["resident"] > 0 for _, _, row in rows)
    for launch, target, count in spilled:
        assert count <= SPILLED_BYTES[target]
        assert f"{launch} for {target}, {count} bytes" in page


SPILLED_BYTES = {"90": 16, "80": 32, "100": 312}
"""Of a thread, at most. A few pointers are ptxas's choice, to fit one more program on a multiprocessor; on a B200 the
products of float64 matrices of D = 32 do not fit."""
