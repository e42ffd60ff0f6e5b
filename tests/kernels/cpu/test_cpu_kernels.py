"""Compiled kernels for a CPU: what they compute, and that they are never needed."""

import logging
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from catalogue import elementwise

import lds_iter as li
from lds_iter.kernels.cpu import build
from lds_iter.linear import registry
from lds_iter.linear.transitions import map_leaves

DTYPES = [torch.float32, torch.float64]
COMPILED = all(not text.startswith("not available") for text in li.kernels.cpu.status().values())
compiled = pytest.mark.skipif(not COMPILED, reason="no C++ compiler")


def close(dtype):
    """Sums of some ten terms of order 1 in both orders: a few dozen units in the last place."""
    return {"rtol": 100 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(dtype).eps}


def poisoned(x):
    """The same numbers in the middle of memory that is NaN all around, rows apart from each other."""
    room = torch.full((x.shape[0] + 2, x[0].numel() + 7), torch.nan, dtype=x.dtype)
    view = room[1:-1, 3:-4].unflatten(1, x.shape[1:])
    view.copy_(x)
    return room, view


def structures(n, batch, width, dtype):
    one = torch.randn(n, *[1] * len(batch), width, width, dtype=dtype) / width**0.5
    return {
        "dense": li.Dense(torch.randn(n, *batch, width, width, dtype=dtype) / width**0.5),
        "transposed": li.Dense(torch.randn(n, *batch, width, width, dtype=dtype) / width**0.5).transpose(),
        "expanded": li.Dense(one.expand(n, *batch, width, width)),
        "diagonal": li.Diagonal(2 * torch.rand(n, *batch, width, dtype=dtype) - 1),
        "diagonal-apart": li.Diagonal((2 * torch.rand(n, *batch, width, 2, dtype=dtype) - 1)[..., 1]),
        "diagonal-for-all": li.Diagonal((2 * torch.rand(1, width, dtype=dtype) - 1).expand(n, *batch, width)),
        "scaled": li.ScaledIdentity(2 * torch.rand(n, *batch, 1, dtype=dtype) - 1),
        "scaled-for-all": li.ScaledIdentity((2 * torch.rand(1, dtype=dtype) - 1).expand(n, *batch, 1)),
        "number": li.ScaledIdentity(0.5),
        "block": li.BlockDiagonal(torch.randn(n, *batch, 1, width, width, dtype=dtype) / width**0.5),
    }  # fmt: skip


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 515])
@pytest.mark.parametrize(("batch", "width"), [((), 1), ((3,), 5), ((2, 2), 8), ((), 17), ((1,), 37)])
def test_scans_on_poisoned_memory(dtype, n, batch, width):
    b, initial = torch.randn(n, *batch, width, dtype=dtype), torch.randn(*batch, width, dtype=dtype)
    for name, transition in structures(n, batch, width, dtype).items():
        for before in None, initial:
            expected = b.double().clone()
            wide = map_leaves(lambda leaf: leaf.double(), transition)
            li.reference_scan(wide, expected, None if before is None else before.double())
            room, x = poisoned(b)
            leaves = map_leaves(lambda leaf: leaf.clone(), transition)
            registry.kernel_of(type(transition), "cpu").forward(transition, x, before)
            # float64 carries the reference; long dense products lose a digit more than close() says
            scale = expected.abs().amax().clamp(min=1)
            assert (x.double() - expected).abs().max() <= 300 * torch.finfo(dtype).eps * scale, name
            assert room.isnan().sum() == room.numel() - x.numel(), name
            for now, then in zip(li.linear.leaves(transition), li.linear.leaves(leaves), strict=True):
                assert torch.equal(now, then)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scan_does_not_depend_on_cuts_mates_or_threads(dtype):
    """To the bit: one step after the other, every channel by itself."""
    n, batch, width = 700, (3,), 13
    b = torch.randn(n, *batch, width, dtype=dtype)
    for name, transition in structures(n, batch, width, dtype).items():
        whole = li.linear_scan(transition, b)
        first = li.linear_scan(li.linear.take(transition, slice(0, 333)), b[:333])
        second = li.linear_scan(li.linear.take(transition, slice(333, n)), b[333:], first[-1])
        assert torch.equal(torch.cat([first, second]), whole), name
        if name != "number":
            alone = map_leaves(lambda leaf: leaf[:, 1:2], transition)
            assert torch.equal(li.linear_scan(alone, b[:, 1:2]), whole[:, 1:2]), name
        torch.set_num_threads(2)
        try:
            assert torch.equal(li.linear_scan(transition, b), whole), name
        finally:
            torch.set_num_threads(1)


@compiled
def test_inf_and_nan_come_through_a_scan():
    a, b = torch.full((5, 3), 0.5), torch.ones(5, 3)
    b[1, 0], b[2, 1] = math.inf, math.nan
    x = li.linear_scan(li.Diagonal(a), b)
    assert x[1:, 0].isposinf().all()
    assert x[2:, 1].isnan().all()
    assert x[:, 2].isfinite().all()
    assert x[:2, 1].isfinite().all()


@compiled
def test_denormal_numbers_survive_the_libraries():
    """A library linked with -ffast-math would flush them to zero in the whole process."""
    li.kernels.cpu.status()
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_torch_func_and_fake_tensors_take_the_plain_scan():
    a, b = torch.rand(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    expected = li.linear_scan(li.Diagonal(a), b)
    dense = li.Dense(torch.diag_embed(a))
    batched = torch.func.vmap(lambda b: li.linear_scan(dense, b))(torch.stack([b, 2 * b]))
    torch.testing.assert_close(batched, torch.stack([expected, 2 * expected]))
    meta = li.linear_scan(li.Diagonal(a.to("meta")), b.to("meta"))
    assert meta.shape == b.shape
    with torch._subclasses.FakeTensorMode() as mode:
        fake = li.linear_scan(li.Diagonal(mode.from_tensor(a)), mode.from_tensor(b))
    assert fake.shape == b.shape


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_without_a_compiler_wide_matrices_go_step_by_step(batch, monkeypatch):
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")
    for n in 1, 2, 9:
        transition = li.Dense(torch.randn(n, *batch, 40, 40, dtype=torch.float64) / 40**0.5)
        b, initial = torch.randn(n, *batch, 40, dtype=torch.float64), torch.randn(*batch, 40, dtype=torch.float64)
        for before in None, initial:
            expected = b.clone()
            li.reference_scan(transition, expected, before)
            torch.testing.assert_close(li.linear_scan(transition, b, before), expected)
            room, x = poisoned(b)
            registry.kernel_of(li.Dense, "cpu").forward(transition, x, before)
            torch.testing.assert_close(x, expected)
            assert room.isnan().sum() == room.numel() - x.numel()


SOLVE = """
import logging, torch
logging.basicConfig(level=logging.WARNING)
import lds_iter as li
from lds_iter.linear import registry
f = lambda s, u: torch.tanh(0.5 * s.roll(1, -1) + u)
u = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
for method in li.Newton(), li.QuasiNewton(), li.Picard():
    error = (li.solve(f, torch.zeros(4), u, method).states - li.sequential(f, torch.zeros(4), u)).abs().max()
    assert error < 1e-4, (method, error)
print(li.kernels.cpu.status()["scan"])
"""

STATUS = 'li.kernels.cpu.status()["scan"]'
LIBRARY = "li.kernels.cpu.build._library('scan')._name"
"""The same where there is a library, without compiling all others: `status` takes a minute in an empty cache."""


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip(), done.stderr


def test_without_a_compiler_plain_operations_serve_and_it_is_said_once(tmp_path):
    out, log = python(SOLVE, CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path))
    assert out.startswith("not available: no C++ compiler (no-such-compiler)")
    assert log.count("WARNING:lds_iter") == 1


def test_a_compiler_that_fails(tmp_path):
    out, log = python(SOLVE, CXX="false", XDG_CACHE_HOME=str(tmp_path))
    assert out.startswith("not available: ")
    assert log.count("WARNING:lds_iter") == 1


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "lds_iter").write_text("a file where the folder should be")
    out, log = python(SOLVE.replace(STATUS, LIBRARY), XDG_CACHE_HOME=str(tmp_path))
    assert out.endswith(".so")  # in a private folder
    assert str(tmp_path) not in out
    assert log.count("WARNING:lds_iter") <= 1


def test_turned_off(tmp_path):
    out, log = python(SOLVE, LDS_ITER_CPU_KERNELS="0", XDG_CACHE_HOME=str(tmp_path))
    assert out == "off: LDS_ITER_CPU_KERNELS=0"
    assert log == ""
    assert not list(tmp_path.iterdir())


@compiled
def test_the_library_is_built_once_and_again_where_it_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build._build("scan")._name
    when = (tmp_path / "lds_iter").stat().st_mtime_ns
    assert build._build("scan")._name == first
    assert (tmp_path / "lds_iter").stat().st_mtime_ns == when
    broken = tmp_path / "lds_iter" / "scan-broken.so"
    (tmp_path / "other" / "lds_iter").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    broken = tmp_path / "other" / "lds_iter" / Path(first).name
    broken.write_text("cut short")
    build._build("scan")
    assert broken.stat().st_size > 1000
    assert [path.name for path in broken.parent.iterdir()] == [broken.name]


@compiled
def test_importing_compiles_nothing(tmp_path):
    python("import lds_iter", XDG_CACHE_HOME=str(tmp_path))
    assert not list(tmp_path.iterdir())


@compiled
def test_a_forked_process_can_scan():
    """As the workers of a DataLoader do, after their parent has."""
    out, _ = python(
        "import torch, os, lds_iter as li\n"
        "scan = lambda: li.linear_scan(li.Diagonal(torch.full((9000, 64), 0.5)), torch.ones(9000, 64))[-1, 0].item()\n"
        "torch.set_num_threads(2); scan(); pid = os.fork()\n"
        "if pid == 0:\n"
        "    torch.set_num_threads(1); os._exit(0 if abs(scan() - 2) < 1e-5 else 1)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    assert out == "0"


@compiled
def test_solutions_pickle():
    solution = li.solve(elementwise, torch.zeros(2), torch.ones(20, 2), li.QuasiNewton())
    assert torch.equal(pickle.loads(pickle.dumps(solution.light())).residual, solution.residual)


def test_the_warning_comes_from_one_logger(caplog):
    build._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="lds_iter"):
        build._warn_once("a reason")
        build._warn_once("a reason")
    assert [record.getMessage() for record in caplog.records] == [
        "lds_iter works without its compiled CPU kernels, several times slower: a reason"
    ]
