"""Compiling and keeping libraries: what is broken, foreign or half written is not loaded, nor an error of solve."""

import errno
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import lds_iter as li
from lds_iter.kernels.cpu import build, cache

compiled = pytest.mark.skipif(
    build.function("scan", "dense_scan", torch.float32, 12) is None, reason="no C++ compiler, or turned off"
)
SCAN = "import torch, lds_iter as li; print(li.linear_scan(li.Diagonal(torch.ones(64, 4)), torch.ones(64, 4))[-1, 0])"
STATUS = "; print(li.kernels.cpu.status()['scan'])"
LIBRARY = "; print(li.kernels.cpu.build._library('scan')._name)"
"""The same where there is a library, without compiling all others."""


def python(code, **environment):
    """Its output; a process that ends by a signal or an exception is an error. Its allocator gives back what is free,
    whatever the environment of the tests says, so that a limit of memory is met."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command, environment = [sys.executable, "-c", code], {**inherited, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip(), done.stderr


@pytest.fixture
def hasty(tmp_path_factory, monkeypatch):
    """A compiler that does not optimise: asked is where libraries lie and which are loaded, not how fast they are."""
    real = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")
    given = script(tmp_path_factory.mktemp("hasty") / "c++", f'exec {real} "$@" -O0')
    monkeypatch.setenv("CXX", given)


@pytest.fixture
def place(tmp_path, monkeypatch, hasty):
    """A cache of its own; this process forgets what it has loaded before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.private.cache_clear()
    yield tmp_path / "lds_iter"
    cache.private.cache_clear()


def built(source="scan"):
    return Path(build._build(source)._name)


@compiled
def test_six_processes_at_once(tmp_path, hasty):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCAN],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        )
        for _ in range(6)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["tensor(64.)"] * 6
    assert all(path.suffix == ".so" for path in (tmp_path / "lds_iter").iterdir())


THREADS = """
import threading, torch, lds_iter as li
a, results = li.Diagonal(torch.ones(64, 4)), []

def work():
    results.append(li.linear_scan(a, torch.ones(64, 4))[-1, 0].item())

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(results)
"""


@compiled
def test_six_threads_at_first_use(tmp_path, hasty):
    assert python(THREADS, XDG_CACHE_HOME=str(tmp_path))[0] == str([64.0] * 6)
    assert [path.suffix for path in (tmp_path / "lds_iter").iterdir()] == [".so"]


@compiled
def test_half_a_library_is_built_again(place):
    whole = built()
    half = whole.read_bytes()[: whole.stat().st_size // 2]
    whole.unlink()  # this process has it mapped: another file of that name
    whole.write_bytes(half)
    whole.chmod(0o700)
    assert python(SCAN + LIBRARY)[0] == f"tensor(64.)\n{whole}"
    assert len(whole.read_bytes()) > len(half)


@compiled
def test_a_library_without_the_function_is_built_again(place, tmp_path):
    key = built().stem.split("-")[1]
    for path in place.iterdir():
        path.unlink()
    source, empty = tmp_path / "empty.cpp", tmp_path / "empty.so"
    source.write_text("int nothing;")
    compiler = build._compiler(os.environ.get("CXX", ""))[0]
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(empty)], check=True)
    content = hashlib.sha256(empty.read_bytes()).hexdigest()[:24]
    planted = place / f"scan-{key}-{content}.so"
    empty.chmod(0o700)
    empty.replace(planted)
    assert python(SCAN)[0] == "tensor(64.)"
    assert not planted.exists()


@compiled
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(place, mode, caplog):
    place.mkdir()
    place.chmod(mode)
    made = built()
    assert place not in made.parents
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert "others can write to" in caplog.text
    assert not list(place.iterdir())


@compiled
def test_a_folder_below_one_that_everybody_can_write_to_is_not_used(tmp_path, monkeypatch, hasty):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    cache.private.cache_clear()
    assert tmp_path not in built().parents
    cache.private.cache_clear()


@compiled
def test_links_are_not_followed(place, tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir(mode=0o700)
    place.symlink_to(real)
    assert real not in built().parents
    place.unlink()
    first = built()
    assert first.parent == place
    first.rename(real / first.name)
    first.symlink_to(real / first.name)
    again = built()
    assert again == first
    assert not again.is_symlink()


@compiled
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["folder", "library", "above"])
def test_what_belongs_to_another_user_is_not_loaded(which, place, tmp_path):
    first = built()
    given = {"folder": place, "library": first, "above": tmp_path}[which]
    os.chown(given, 65534, 65534)
    if which == "library":
        os.chown(place, 0, 0)
    made = built()
    assert made.lstat().st_uid == os.getuid()
    assert (place in made.parents) == (which == "library")
    os.chown(given, 0, 0)


@compiled
@pytest.mark.parametrize("given", ["cache", "~/cache", ""])
def test_a_relative_cache_is_ignored(given, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.chdir(tmp_path)
    assert cache.folder() == home / ".cache" / "lds_iter"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def nobody(number):
    raise KeyError(f"uid not found: {number}")


@pytest.mark.parametrize("blocked", ["a file in the way", "nothing can be made there", "no home", "a relative home"])
def test_where_no_cache_can_be_made_a_private_folder_serves(blocked, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    given = {"a file in the way": str(tmp_path / "file"), "nothing can be made there": "/proc/nowhere"}
    monkeypatch.setenv("XDG_CACHE_HOME", given.get(blocked, ""))
    monkeypatch.setenv("HOME", "relative" if blocked == "a relative home" else str(tmp_path))
    if blocked == "no home":  # of a user of a container that no list knows
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", nobody)
    cache.private.cache_clear()
    made = cache.folder()
    assert made.name.startswith("lds_iter-")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert caplog.text.count("for this process alone") == 1
    cache.private.cache_clear()


@compiled
def test_a_full_cache_is_told_from_a_broken_compiler(place, tmp_path, monkeypatch, caplog):
    """The compiler and the test of the room fail in the cache, as on a full disk, and nowhere else."""
    real, room = build._compiler("")[0][0], cache.check_room
    full = f'case "$*" in *{place}*) echo "No space left on device" >&2; exit 1;; esac; exec "{real}" "$@"'
    monkeypatch.setenv("CXX", script(tmp_path / "g++", full))

    def check_room(where):
        if where == place:
            raise OSError(errno.ENOSPC, "No space left on device")
        room(where)

    monkeypatch.setattr(cache, "check_room", check_room)
    made = built("low_rank")
    assert place not in made.parents
    assert built("low_rank") == made
    assert caplog.text.count("No space left on device") == 1
    assert not list(place.iterdir())


@compiled
def test_a_filled_cache_that_cannot_be_written_is_still_read(place, monkeypatch):
    """A disk that is read only: whatever would write raises."""
    first = built("low_rank")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    assert built("low_rank") == first


def test_what_ended_builds_have_left_is_removed(place):
    old, new = place / "build-old", place / "build-new"
    for folder in old, new:
        folder.mkdir(parents=True)
        (folder / "made.so").write_text("half")
    os.utime(old, (0, 0))
    cache.remove_stale(place)
    assert [path.name for path in place.iterdir()] == ["build-new"]


def script(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", ["unbalanced", "hangs", "bytes"])
def test_a_compiler_that_is_no_use_is_explained(kind, tmp_path):
    """The hang has a program of its own below it, as compilers have, and stays within one limit for all kernels."""
    given, said = {
        "unbalanced": ('g++ "-O2', "cannot be read: no closing quotation"),
        "hangs": (script(tmp_path / "hangs", "sleep 1000 | cat"), "did not answer within 1 seconds"),
        "bytes": (script(tmp_path / "bytes", r"printf '\377\376 no' >&2; exit 1"), "cannot compile them"),
    }[kind]
    limit = "from lds_iter.kernels.cpu import build; build.LIMIT_SECONDS = 1; "
    out, log = python(limit + SCAN + STATUS, CXX=given, XDG_CACHE_HOME=str(tmp_path))
    assert out.startswith("tensor(64.)\nnot available: ")
    assert said in out
    assert log.count("several times slower") == 1


@compiled
def test_a_compiler_with_a_space_in_its_path(tmp_path, place):
    real = build._compiler("")[0][0]
    (tmp_path / "my tools").mkdir()
    given = script(tmp_path / "my tools" / "g++", f'exec "{real}" "$@"')
    assert build._compiler(given)[0] == (given,)
    assert build._compiler(f"'{given}' -O1")[0] == (given, "-O1")


LIMITED = """
import resource, torch
from lds_iter.kernels.cpu import kalman, cells
from lds_iter.kernels.cpu.steps import steps
import lds_iter as li
torch.set_grad_enabled(False)
n, width = 400, 24
j, r = torch.randn(n, width, width) * 0.05, torch.randn(n, width)
q, free = torch.tensor(1.0), torch.ones(n, 1, dtype=torch.bool)
u, w, s0 = torch.randn(3, 4, 1, 900), torch.randn(3, 900, 900), torch.zeros(1, 900)
gru = cells.COMPILED_GRU, s0, (*u, *w, torch.zeros(900))
runs = [lambda: kalman.smoothed(li.Dense(j), r, q, free), lambda: steps(*gru)]
wanted = [run() for run in runs]
refused = [0, 0]
for k in range(40):
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    for which, run in enumerate(runs):
        resource.setrlimit(resource.RLIMIT_AS, (now + k * 2**17, resource.RLIM_INFINITY))
        try:
            found = run()
        except MemoryError as error:
            assert "memory" in str(error)
            refused[which] += 1
            found = None
        except RuntimeError as error:  # torch's own allocator
            assert "allocate" in str(error), error
            found = None
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert found is None or torch.equal(found, wanted[which])
print(*refused)
"""


@compiled
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
def test_out_of_memory_is_an_error_and_not_the_end_of_the_process():
    out, _ = python(LIMITED, OMP_NUM_THREADS="1")
    assert all(int(count) > 0 for count in out.split())


def test_no_exported_function_lets_an_exception_out():
    """An exception that leaves C++ ends the process; in each export `guarded` makes a number of it."""
    exports = {}
    for path in [*build.HERE.glob("*.cpp"), *build.HERE.glob("*.h")]:
        for text in path.read_text().split('extern "C" ')[1:]:
            exports[re.search(r"(\w+)#", text)[1]] = re.search(r"\{[\s\\]*return (\w+)\(", text)[1]
    assert {"dense_scan", "matrices", "sweep", "adjoint", "steps", "backward"} <= set(exports)
    assert set(exports.values()) == {"guarded"}, exports


@pytest.mark.parametrize("switch", ["1", "0"])
def test_a_scan_by_matrices_of_another_width_is_refused(switch, monkeypatch):
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", switch)
    for transition, width in [
        (li.Dense(torch.full((3, 2, 2), 0.5)), 3),
        (li.Dense(torch.full((3, 2, 2), 0.5)), 4),
        (li.Dense(torch.full((3, 6, 6), 0.5)), 3),
        (li.BlockDiagonal(torch.full((3, 2, 2, 2), 0.5)), 5),
        (li.BlockDiagonal(torch.full((3, 2, 2, 2), 0.5)), 2),
    ]:
        with pytest.raises((ValueError, RuntimeError)):
            li.linear_scan(transition, torch.ones(3, width))
