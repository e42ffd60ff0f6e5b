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
from lds_iter.kernels import cuda
from lds_iter.transitions import leaves, map_leaves

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from lds_iter.kernels import block_scan, dense_scan  # they import Triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# As in tests/test_scan.py: float64, so that what is left is rounding.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

TOLERANCES = {torch.float64: CLOSE, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}
"""In float32 a few units in the last place (6e-8) of sums of up to 100 terms of size 1."""


@pytest.fixture(autouse=True)
def _poisoned_and_short(monkeypatch):
    """Chunks of 8 rows, tiles of 2 chunks, memory that is NaN where it is not written, kernels on this device."""
    monkeypatch.setattr(block_scan, "LENGTH", 8)
    monkeypatch.setattr(block_scan, "TILE", 2)
    monkeypatch.setattr(dense_scan, "LENGTH", 8)
    monkeypatch.setattr("lds_iter.scan._SCANS", dict(li.scan._SCANS))
    monkeypatch.setattr("lds_iter.scan._REVERSED", dict(li.scan._REVERSED))
    for structure in li.Diagonal, li.ScaledIdentity, li.Identity, li.BlockDiagonal, li.Dense:
        li.register_scan(structure, DEVICE)(cuda.triton_scan)
        li.scan.register_reverse_scan(structure, DEVICE)(cuda.triton_reverse_scan)
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
    transition, b, initial = structures(30, (2,), 4, lowered)[name], uniform(30, 2, 4, dtype=lowered), uniform(2, 4)
    full = expected(map_leaves(torch.Tensor.double, transition), b.double(), initial)
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


def test_every_launch_compiles_for_a_hopper_gpu_within_its_registers():
    """Ahead of time, in a process that does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    here = Path(__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    run = [sys.executable, str(here / "ahead_of_time.py")]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
    assert not done.returncode, done.stderr
    kernels = json.loads(done.stdout)
    assert len(kernels) > 10
    for kernel in kernels:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
