"""Compile and load the C++ files of this folder, on first use, as Triton compiles its kernels on first use.

A kernel is one `.cpp` file with a C interface over pointers and sizes: no header of torch, so it builds in a second or
two. To add one:

1. Write `NAME.cpp` here, with `extern "C"` functions `WHAT_f32` and `WHAT_f64` that take 64-bit integers (addresses
   and sizes), then doubles, and return a 64-bit integer. One argument is the number of threads; with one they must not
   enter a parallel region (a forked process would hang in it).
2. Get the function by `function("NAME", "WHAT", dtype, integers)`, which is None where there is no compiler: then call
   the plain torch operations that are its reference. Pass tensors as `tensor.data_ptr()` and sizes as int; `plain`
   says whether a tensor has an address.
3. Let the same parametrised test run over both, with `LDS_ITER_CPU_KERNELS` 1 and 0.

The compiler is `$CXX`, or the first of c++, g++, clang++. `cache` says where libraries are kept and which are loaded;
their names tell source, compiler, flags and processor. Where a kernel cannot be built, one that the wheel brought along
serves, see `prebuilt`. Without that it is missing, which is logged once as a warning of the logger `lds_iter`; `status`
explains. A kernel that runs out of memory raises MemoryError.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lds_iter.kernels.cpu import cache, prebuilt
from lds_iter.kernels.cpu.prebuilt import HERE, source_text

SWITCH = "LDS_ITER_CPU_KERNELS"
"""The environment variable that turns the kernels off (0 or off); read at every use."""

COMMON = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
"""Not -ffast-math: inf and NaN must come through, and linking with it changes how the process treats denormals."""

TRIES = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""Flags to add, best first; some compilers lack OpenMP (then one thread works) or do not know the processor."""

LIMIT_SECONDS = 120
"""A compiler that takes longer hangs; then it is not asked again in this process."""

OUT_OF_MEMORY, FAILED = -1, -2
"""The value that functions return in place of an exception, see `guard.h`."""

_ENDINGS = {torch.float32: "_f32", torch.float64: "_f64"}


class BuildError(Exception):
    """Why a kernel is missing."""


def enabled() -> bool:
    """Whether the environment allows compiled kernels."""
    return os.environ.get(SWITCH, "1").lower() not in ("0", "off", "false")


def function(source: str, name: str, dtype: torch.dtype, integers: int, reals: int = 0) -> Callable[..., int] | None:
    """A compiled function, or None where plain torch operations must serve.

    Args:
        source: the file `source.cpp` in this folder.
        name: of the function, without the ending for its type.
        dtype: float32 or float64; None comes back for any other.
        integers: how many 64-bit integers it takes first, pointers among them.
        reals: how many doubles it takes after them.
    """
    if dtype not in _ENDINGS or not enabled():
        return None
    return _function(source, name + _ENDINGS[dtype], integers, reals)


def load_kernels(*sources: str) -> None:
    """Load kernels before they are used, and compile those that are missing; see `function` for their sources."""
    if enabled():
        for source in sources:
            _library(source)


def status() -> dict[str, str]:
    """The compiled library of each kernel, or the reason why there is none. Compiles kernels that were not used yet.

    Example:
        >>> sorted(li.kernels.cpu.status())[0]
        'gru'
    """
    names = sorted(path.stem for path in HERE.glob("*.cpp"))
    if not enabled():
        return dict.fromkeys(names, f"off: {SWITCH}={os.environ[SWITCH]}")
    found: dict[str, str] = {}
    for name in names:
        library = _library(name)
        found[name] = f"not available: {library}" if isinstance(library, BuildError) else str(library._name)
    return found


@functools.cache
def _function(source: str, name: str, integers: int, reals: int) -> Callable[..., int] | None:
    library = _library(source)
    if not isinstance(library, BuildError) and not hasattr(library, name):  # not made of this source: build it again
        Path(library._name).unlink(missing_ok=True)
        _library.cache_clear()
        library = _library(source)
    if isinstance(library, BuildError):
        return None
    found = getattr(library, name)
    found.argtypes, found.restype = [ctypes.c_int64] * integers + [ctypes.c_double] * reals, ctypes.c_int64
    found.errcheck = _as_exception
    return found


def _as_exception(result: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if result == OUT_OF_MEMORY:
        raise MemoryError(
            f"There is no memory for the compiled `{function.__name__}`. In order of likelihood: the sequences are too "
            f"long for one call (type `window=1000`), or a limit is set for the process (`ulimit -v`)."
        )
    if result == FAILED:
        raise RuntimeError(f"The compiled `{function.__name__}` failed. What works: {SWITCH}=0 in the environment.")
    return result


@functools.cache
def _library(source: str) -> ctypes.CDLL | BuildError:
    try:
        return _build(source)
    except (BuildError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        ready = prebuilt.load(source)
        if ready is not None:
            return ready
        reason = error if isinstance(error, BuildError) else BuildError(str(error))
        _warn_once(str(reason))
        return reason


@functools.cache
def _warn_once(reason: str) -> None:
    cache.LOG.warning("lds_iter works without its compiled CPU kernels, several times slower: %s", reason)


def _build(source: str) -> ctypes.CDLL:
    """The library of a source, out of the cache or new; new in a private folder where the cache takes no more files.

    Raises:
        BuildError, OSError: where there is none.
    """
    where = cache.folder()
    try:
        return _build_in(where, source)
    except OSError as error:
        reason = error.strerror or "a library in it cannot be loaded"
        return _build_in(cache.private(f"{where}: {reason}"), source)


def _build_in(where: Path, source: str) -> ctypes.CDLL:
    compiler, version = _compiler(os.environ.get("CXX", ""))
    text = source_text(source)
    cache.remove_stale(where)
    errors: list[str] = []
    for flags in TRIES:
        command = [*compiler, *COMMON, *flags]
        key = hashlib.sha256(text + repr((command, version, _processor(), _gomp())).encode()).hexdigest()[:24]
        known = cache.find(source, key, where)
        if known is not None:
            try:
                return ctypes.CDLL(str(known))
            except OSError:  # of another system
                known.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=where, prefix="build-") as folder:
            made = Path(folder) / "made.so"
            libraries = _gomp() if "-fopenmp" in flags else ()
            status, _, said = _output_of([*command, str(HERE / f"{source}.cpp"), *libraries, "-o", str(made)])
            if status == 0 and made.exists():
                return ctypes.CDLL(str(cache.keep(made, source, key, where)))
        cache.check_room(where)  # or the disk is to blame, not the compiler
        errors.append(said.strip()[-500:] or f"exit status {status}")
    raise BuildError(f"{compiler[0]} cannot compile them: {errors[-1]}")


@functools.cache
def _compiler(given: str) -> tuple[tuple[str, ...], str]:
    """The command for `CXX`, and its version."""
    try:
        words = [given] if shutil.which(given) else shlex.split(given)
    except ValueError as error:
        raise BuildError(f"CXX={given} cannot be read: {str(error).lower()}") from None
    for name in words[:1] or ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            command = (path, *words[1:])
            return command, _output_of([*command, "--version"])[1]
    raise BuildError(f"no C++ compiler ({words[0] if words else 'c++, g++ or clang++'}) is on the PATH")


def _output_of(command: list[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command within the time limit.

    Raises:
        BuildError: when it hangs; the next call for the same program raises at once.
    """
    hung = _hung(command[0])
    if hung:
        raise BuildError(hung[0])
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            hung.append(f"{command[0]} did not answer within {LIMIT_SECONDS} seconds")
            raise BuildError(hung[0]) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the programs that it has started
    return process.returncode, out, errors


@functools.cache
def _hung(program: str) -> list[str]:
    """The errors of programs that hung, kept so that they are not started again."""
    return []


@functools.cache
def _processor() -> str:
    """What `-march=native` may depend on."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.platform() + platform.processor()
    lines = info.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if re.match(r"(vendor_id|cpu family|model|flags|Features|CPU)\b", line))


@functools.cache
def _gomp() -> tuple[str, ...]:
    """Torch's own OpenMP library, to link with, so that torch and the kernels share one pool of threads."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    found += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return ("-Wl,--as-needed", str(found[0])) if found else ()
