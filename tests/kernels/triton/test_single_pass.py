"""The scan in one launch: against the reference, and to the bit whatever runs when and whatever else is scanned.

By Triton's interpreter on a CPU, on the device itself where there is a GPU.
"""

import pytest
import torch

import lds_iter as li
from lds_iter.kernels.triton.scans import cuda
from lds_iter.linear.transitions import map_leaves

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from schedules import scrambled

from lds_iter.kernels.triton.scans import (
    block_scan,  # they import Triton
    look_back,  # they import Triton
    single_pass,  # they import Triton
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""In float32 a few units in the last place (6e-8) of sums of up to 100 terms of size 1."""


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Chunks of 8 rows, two of a level in one of the next, memory that is NaN where it is not written."""
    monkeypatch.setattr(single_pass, "ROWS", {1: 4, 2: 4})
    monkeypatch.setattr(single_pass, "SUBS", {1: 2, 2: 2})
    monkeypatch.setattr(look_back, "GROUP", 2)
    monkeypatch.setattr(block_scan, "scan_", None)  # nothing here takes three launches
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def uniform(*shape, dtype=torch.float32):
    return (2 * torch.rand(*shape) - 1).to(DEVICE, dtype)


def transition(size, n, batch, width, dtype=torch.float32):
    if size == 1:
        return li.Diagonal(uniform(n, batch, width, dtype=dtype))
    return li.BlockDiagonal(uniform(n, batch, width // size, size, size, dtype=dtype))


def expected(a, b, initial, reverse=False):
    """In float64."""
    if reverse:
        return expected(map_leaves(lambda leaf: leaf.flip(0), a), b.flip(0), initial).flip(0)
    x = b.double()
    li.reference_scan(map_leaves(torch.Tensor.double, a), x, None if initial is None else initial.double())
    return x.to(b.dtype)


def found(a, b, initial=None, reverse=False):
    x = b.clone(memory_format=torch.preserve_format)
    (cuda.triton_reverse_scan if reverse else cuda.triton_scan)(a, x, initial)
    return x


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("n", [1, 8, 9, 70])
def test_it_equals_the_reference_amid_nan(size, n):
    """Nine chunks are two of the highest level and one of the lowest."""
    a, initial = transition(size, n, 3, 6), uniform(3, 6)
    around = torch.full((n + 2, 5, 8), torch.nan, device=DEVICE)
    x = around[1:-1, 1:-1, 1:-1]
    b = uniform(n, 3, 6)
    x.copy_(b)
    cuda.triton_scan(a, x, initial)
    torch.testing.assert_close(x, expected(a, b, initial), **CLOSE)
    x[:] = torch.nan
    assert around.isnan().all()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("n", [1, 23])
def test_backwards_and_without_an_initial_value_it_reads_no_first_matrix(size, n):
    a, b = transition(size, n, 2, 4), uniform(n, 2, 4)
    for reverse in False, True:
        want, spoiled = expected(a, b, None, reverse), map_leaves(torch.clone, a)
        (spoiled.diagonal if size == 1 else spoiled.blocks)[-1 if reverse else 0] = torch.nan
        torch.testing.assert_close(found(spoiled, b, None, reverse), want, **CLOSE)


@pytest.mark.parametrize("size", [1, 2])
def test_every_layout_and_numbers_that_repeat(size):
    a, b, initial = transition(size, 20, 3, 4), uniform(20, 3, 4), uniform(3, 4)
    for order in (0, 1, 2), (2, 1, 0), (1, 2, 0):
        back = sorted(range(3), key=order.__getitem__)
        laid = b.permute(order).contiguous().permute(back)
        others = map_leaves(lambda leaf: leaf.transpose(0, -1).contiguous().transpose(0, -1), a)
        torch.testing.assert_close(found(others, laid, initial), expected(a, b, initial), **CLOSE)
    leaf = a.diagonal if size == 1 else a.blocks
    for dimension in range(leaf.ndim):
        same = type(a)(leaf.narrow(dimension, 0, 1).expand_as(leaf))
        torch.testing.assert_close(found(same, b), expected(same, b, None), **CLOSE)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("lowered", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_what_it_writes(size, lowered):
    a, b = transition(size, 30, 2, 4, lowered), uniform(30, 2, 4, dtype=lowered)
    full = expected(map_leaves(torch.Tensor.double, a), b.double(), None)
    # By half a unit in the last place, by a whole one where the interpreter cuts bfloat16 off.
    error = torch.finfo(lowered).eps * (1.01 if DEVICE == "cpu" else 0.51)
    torch.testing.assert_close(found(a, b).double(), full, rtol=error, atol=1e-5)
    torch.testing.assert_close(found(a, b.float()), full.float(), **CLOSE)


@pytest.mark.parametrize("size", [1, 2])
def test_no_bit_depends_on_batch_mates_or_on_later_rows(size):
    """A row alone is a narrow tile, in company a wide one, and shorter sequences fill fewer levels."""
    a, b, initial = transition(size, 41, 5, 2), uniform(41, 5, 2), uniform(5, 2)
    whole = found(a, b, initial)
    for mate in 0, 4:
        own = slice(mate, mate + 1)
        alone = map_leaves(lambda leaf, own=own: leaf[:, own].contiguous(), a)
        assert torch.equal(found(alone, b[:, own].contiguous(), initial[own]), whole[:, own])
    for rows in 1, 8, 15, 33:
        assert torch.equal(found(map_leaves(lambda leaf, n=rows: leaf[:n], a), b[:rows], initial), whole[:rows])


@pytest.mark.parametrize("size", [1, 2])
def test_no_bit_depends_on_lengths_at_their_full_size(size, monkeypatch):
    monkeypatch.undo()
    a, b = transition(size, 1100, 1, 2), uniform(1100, 1, 2)
    whole = found(a, b)
    torch.testing.assert_close(whole, expected(a, b, None), **CLOSE)
    assert torch.equal(found(map_leaves(lambda leaf: leaf[:600], a), b[:600]), whole[:600])


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has schedules of its own")
@pytest.mark.parametrize("size", [1, 2])
def test_no_bit_depends_on_what_runs_when(size):
    """All programs at once in threads, delayed at random: they wait for each other, and come to the same."""
    a, b, initial = transition(size, 41, 2, 4), uniform(41, 2, 4), uniform(2, 4)
    in_order, waited = found(a, b, initial), 0
    for seed in range(50):  # twice, and until a program has waited, which is up to the scheduler of the machine
        with scrambled(seed) as polls:
            assert torch.equal(found(a, b, initial), in_order)
        waited += polls.count(False)
        if seed > 0 and waited:
            break
    assert waited > 0


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_no_bit_depends_on_what_a_gpu_runs_when(monkeypatch):
    """Among other work, on lengths that fill the device many times over."""
    monkeypatch.undo()
    a, b = li.Diagonal(uniform(200_000, 1, 32)), uniform(200_000, 1, 32)
    first, noise = found(a, b), torch.rand(1024, 1024, device=DEVICE)
    torch.testing.assert_close(first, expected(a, b, None), **CLOSE)
    for repeat in range(50):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(repeat % 5):
                noise @ noise
        assert torch.equal(found(a, b), first)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("size", [1, 2])
def test_what_is_not_finite_reaches_later_rows_alone(size):
    """By words that carry NaN and infinities as any number."""
    a, b = transition(size, 40, 2, 2), uniform(40, 2, 2)
    whole = found(a, b)
    for bad in torch.nan, torch.inf:
        spoiled = b.clone()
        spoiled[11, 0, 0] = bad
        x = found(a, spoiled)
        assert torch.equal(x[:11], whole[:11])
        assert torch.equal(x[:, 1], whole[:, 1])
        assert not x[11:, 0, 0].isfinite().any()


def test_float64_and_larger_blocks_take_three_launches():
    numbers = uniform(5, 2, 4)
    for size, served in (1, True), (2, True), (3, False), (4, False):
        assert single_pass.serves(uniform(5, 2, 1, size, size), numbers) == served
    assert not single_pass.serves(uniform(5, 2, 4, 1, 1).double(), numbers)
    assert not single_pass.serves(uniform(5, 2, 4, 1, 1), numbers.double())
