"""Libraries that a wheel brings along, for Linux on x86-64 machines without a C++ compiler.

`wheels/build.py`, of the repository, compiles every source for the levels of the x86-64 psABI; the best one that the
processor has is loaded. A name tells the source and the bytes, `SOURCE-KEY-CONTENT.so`: a library of other sources, or
half a library, is not loaded. They are linked to no OpenMP library and take torch's, which torch makes visible to the
whole process; where it does not, they do not load. Other wheels bring none along.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
from pathlib import Path

from lds_iter.kernels.cpu.cache import content

HERE = Path(__file__).parent
FOLDER = HERE / "prebuilt"

_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
PROCESSORS = {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2}
"""What a processor must have for each level, in the words of /proc/cpuinfo; the best level first."""


def source_text(source: str) -> bytes:
    """All that a library is made of, apart from the compiler."""
    return b"".join(path.read_bytes() for path in [HERE / f"{source}.cpp", *sorted(HERE.glob("*.h"))])


def file_name(source: str, made: Path) -> str:
    """The name that a new library of a source gets, within the folder of a level."""
    return f"{source}-{_key(source)}-{content(made)}.so"


def _key(source: str) -> str:
    return hashlib.sha256(source_text(source)).hexdigest()[:24]


def load(source: str) -> ctypes.CDLL | None:
    """The library of a source for the best level that this processor has; None where there is none."""
    if platform.machine() != "x86_64":
        return None
    for level in levels(features()):
        for path in (FOLDER / level).glob(f"{source}-{_key(source)}-*.so"):
            try:
                if path.name == file_name(source, path):
                    return ctypes.CDLL(str(path))
            except OSError:  # of a newer system, or torch's OpenMP is not to be seen
                continue
    return None


def levels(features: frozenset[str]) -> list[str]:
    """The levels of a processor, the best one first."""
    return [level for level, needed in PROCESSORS.items() if needed <= features]


@functools.cache
def features() -> frozenset[str]:
    """What this processor has, by /proc/cpuinfo; empty where there is no such file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())
