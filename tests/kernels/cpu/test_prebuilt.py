"""Libraries that a wheel brings along: chosen by processor, used without a compiler, and whole or not at all."""

import importlib.util
import logging
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import lds_iter as li
from lds_iter.kernels.cpu import build, prebuilt

ROOT = Path(__file__).parents[3]
HERE = prebuilt.levels(prebuilt.features()) if platform.machine() == "x86_64" else []
needs_gcc = pytest.mark.skipif(
    not HERE or not shutil.which("g++") or not shutil.which("objdump"),
    reason="a wheel with kernels is made by g++ on x86-64 alone",
)


def wheels():
    spec = importlib.util.spec_from_file_location("wheels_build", ROOT / "wheels" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The scans for each level that this processor has."""
    folder = tmp_path_factory.mktemp("made")
    for level in HERE:
        wheels().compiled("scan", level, folder / level)
    return folder


def forget():
    for known in build._library, build._function, build._warn_once:
        known.cache_clear()


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """The folder of a wheel's libraries, empty yet, on a machine without a compiler."""
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "brought")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    forget()
    yield tmp_path / "brought"
    forget()


def scanned():
    """The library that a scan of ones by halves has taken; its solution is the sum of a geometric series."""
    x, exact = torch.ones(9000, 64), 2 - 2 * 0.5 ** torch.arange(1, 9001).unsqueeze(1)
    got = li.linear_scan(li.Diagonal(torch.full_like(x, 0.5)), x)
    torch.testing.assert_close(got, exact.expand_as(got), rtol=1e-6, atol=0)  # some units in the last place
    return str(build._library("scan"))


def test_the_best_level_comes_first():
    for place, needed in enumerate(prebuilt.PROCESSORS.values()):
        assert prebuilt.levels(needed | {"sse", "more"}) == list(prebuilt.PROCESSORS)[place:]
    assert prebuilt.levels(prebuilt.PROCESSORS["x86-64-v3"] - {"fma"}) == ["x86-64-v2"]
    assert prebuilt.levels(frozenset()) == []


@needs_gcc
@pytest.mark.parametrize("level", HERE)
def test_without_a_compiler_each_level_serves_unless_there_is_a_better_one(level, made, brought, caplog):
    for other in HERE[HERE.index(level) :]:
        shutil.copytree(made / other, brought / other)
    with caplog.at_level(logging.WARNING, logger="lds_iter"):
        assert f"{brought}/{level}/scan-" in scanned()
    assert not caplog.records


@needs_gcc
def test_a_compiler_comes_first(made, brought, monkeypatch):
    shutil.copytree(made, brought)
    monkeypatch.setenv("CXX", "g++")
    library = scanned()
    assert str(brought.parent / "cache") in library


@needs_gcc
@pytest.mark.parametrize("fault", ["none", "of other sources", "half", "of another content", "for another torch"])
def test_what_is_not_ours_or_not_whole_is_left_out(fault, made, brought, tmp_path, caplog):
    (whole,) = (made / HERE[0]).iterdir()
    place = brought / HERE[0]
    place.mkdir(parents=True)
    if fault == "of other sources":
        shutil.copy(whole, place / f"scan-{'0' * 24}-{whole.stem.rpartition('-')[2]}.so")
    elif fault == "half":
        (place / whole.name).write_bytes(whole.read_bytes()[:1000])
    elif fault == "of another content":
        (place / whole.name).write_bytes(whole.read_bytes() + b"more")
    elif fault == "for another torch":  # it needs what nothing in the process has
        (tmp_path / "x.cpp").write_text('extern "C" void nowhere(); extern "C" void diagonal_scan_f32() { nowhere(); }')
        command = ["g++", "-shared", "-fPIC", "-Wl,-z,now", str(tmp_path / "x.cpp"), "-o", str(tmp_path / "x.so")]
        subprocess.run(command, check=True)
        shutil.copy(tmp_path / "x.so", place / prebuilt.file_name("scan", tmp_path / "x.so"))
    assert "no C++ compiler" in scanned()
    assert caplog.text.count("several times slower") == 1


@needs_gcc
def test_a_library_needs_no_openmp_of_its_own_and_an_old_system_is_enough(made):
    for library in made.glob("*/*.so"):
        assert "libgomp" not in subprocess.check_output(["objdump", "-p", str(library)], text=True)
        assert wheels().needed_glibc(library) <= 28  # of manylinux_2_28, as torch's own wheels
