"""Compile and load the C++ files of this folder, on first use, as Triton compiles its kernels on first use.

A kernel is one `.cpp` file with a C interface over pointers and sizes: no header of torch, so it builds in a second or
two. What it takes to add one:

1. Write `NAME.cpp` here, with `extern "C"` functions `WHAT_f32` and `WHAT_f64` that take 64-bit integers (addresses
   and sizes), then doubles, and return a 64-bit integer. One argument is the number of threads; with one they must not
   enter a parallel region (a forked process would hang in it).
2. Get the function by `function("NAME", "WHAT", dtype, integers)`, which is None where there is no compiler: then call
   the plain torch operations that are its reference. Pass tensors as `tensor.data_ptr()` and sizes as int; `plain`
   says whether a tensor has an address.
3. Let the same parametrised test run over both, with `LDS_ITER_CPU_KERNELS` 1 and 0.

The compiler is `$CXX`, or the first of c++, g++, clang++. Libraries are kept in `$XDG_CACHE_HOME/lds_iter` (else
`~/.cache/lds_iter`), named by a hash of source, compiler, flags and processor; they appear there by an atomic rename,
so that any number of processes may build at once. Nothing here raises: a kernel that cannot be built is missing, which
is logged once as a warning of the logger `lds_iter`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

SWITCH = "LDS_ITER_CPU_KERNELS"
"""The environment variable that turns the kernels off (0 or off); read at every use."""

HERE = Path(__file__).parent
COMMON = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
"""Not -ffast-math: inf and NaN must come through, and linking with it changes how the process treats denormals."""

TRIES = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""Flags to add, best first; some compilers lack OpenMP (then one thread works) or do not know the processor."""

_ENDINGS = {torch.float32: "_f32", torch.float64: "_f64"}
_log = logging.getLogger("lds_iter")


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


def status() -> dict[str, str]:
    """What is used for each kernel: its compiled library, or why there is none. Compiles what was not used yet.

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
    if isinstance(library, BuildError):
        return None
    found = getattr(library, name)
    found.argtypes, found.restype = [ctypes.c_int64] * integers + [ctypes.c_double] * reals, ctypes.c_int64
    return found


@functools.cache
def _library(source: str) -> ctypes.CDLL | BuildError:
    try:
        return _build(source)
    except (BuildError, OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home
        reason = error if isinstance(error, BuildError) else BuildError(str(error))
        _warn_once(str(reason))
        return reason


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("lds_iter works without its compiled CPU kernels, several times slower: %s", reason)


def _build(source: str) -> ctypes.CDLL:
    compiler = _compiler()
    text = b"".join(path.read_bytes() for path in [HERE / f"{source}.cpp", *sorted(HERE.glob("*.h"))])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "lds_iter"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    errors: list[str] = []
    for flags in TRIES:
        command = [*compiler, *COMMON, *flags]
        key = hashlib.sha256(text + repr((command, _version(tuple(compiler)), _processor(), _gomp())).encode())
        target = folder / f"{source}-{key.hexdigest()[:24]}.so"
        if target.exists():
            try:
                return ctypes.CDLL(str(target))
            except OSError:  # cut short, or of another system: build it again
                target.unlink()
        failed = _compile([*command, str(HERE / f"{source}.cpp"), *(_gomp() if "-fopenmp" in flags else ())], target)
        if failed is None:
            return ctypes.CDLL(str(target))
        errors.append(failed)
    raise BuildError(f"{compiler[0]} cannot compile them: {errors[-1]}")


def _compile(command: list[str], target: Path) -> str | None:
    """Compile to `target`; what the compiler said where it failed."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        made = Path(folder) / target.name
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode or not made.exists():
            return done.stderr.strip()[-500:] or f"exit status {done.returncode}"
        made.replace(target)
    return None


def _compiler() -> list[str]:
    given = shlex.split(os.environ.get("CXX", ""))
    for name in given[:1] or ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return [path, *given[1:]]
    raise BuildError(f"no C++ compiler ({given[0] if given else 'c++, g++ or clang++'}) is on the PATH")


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


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
