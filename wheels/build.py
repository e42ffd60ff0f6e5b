"""A wheel with compiled kernels, for Linux on x86-64: `make wheel`, which takes some minutes and writes `out/wheel`.

Every source is compiled for each level of `lds_iter.kernels.cpu.prebuilt`. The tag of the wheel names the version of
the C library that the kernels need.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lds_iter.kernels.cpu import prebuilt
from lds_iter.kernels.cpu.build import COMMON

ROOT = Path(__file__).resolve().parents[1]
COMPILER = "g++"
BUILD = "import sys; from setuptools.build_meta import *; build_wheel(sys.argv[1], {'--build-option': sys.argv[2]})"
OLDEST_GLIBC = 17
"""Of manylinux: no tag names an older one than 2.17."""


def compiled(source: str, level: str, folder: Path) -> Path:
    """The library of a source for a level; without an OpenMP library of its own, it takes the one of torch."""
    folder.mkdir(parents=True, exist_ok=True)
    linked, step = folder / f"{source}.so", folder / f"{source}.o"
    flags = ["-Wno-psabi", *(flag for flag in COMMON if flag != "-shared")]
    text = str(prebuilt.HERE / f"{source}.cpp")
    subprocess.run([COMPILER, *flags, f"-march={level}", "-fopenmp", "-c", text, "-o", str(step)], check=True)
    subprocess.run([COMPILER, "-shared", "-s", "-Wl,-z,now", str(step), "-o", str(linked)], check=True)
    step.unlink()
    return linked.rename(folder / prebuilt.file_name(source, linked))


def needed_glibc(library: Path) -> int:
    """The N of the version 2.N of the C library that a library needs."""
    said = subprocess.check_output(["objdump", "-T", str(library)], text=True)
    return max((int(number) for number in re.findall(r"GLIBC_2\.(\d+)", said)), default=0)


def main(out: Path) -> None:
    """Compile into a copy of the sources, and build the wheel there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "lds_iter", copy / "lds_iter", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        to = copy / "lds_iter" / "kernels" / "cpu" / "prebuilt"
        glibc = OLDEST_GLIBC
        for source in sorted(path.stem for path in prebuilt.HERE.glob("*.cpp")):
            for level in prebuilt.PROCESSORS:
                glibc = max(glibc, needed_glibc(compiled(source, level, to / level)))
        out.mkdir(parents=True, exist_ok=True)
        option = f"--plat-name=manylinux_2_{glibc}_x86_64"
        command = [sys.executable, "-c", BUILD, str(out.resolve()), option]
        subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL)
    print(*out.glob("*manylinux*.whl"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
