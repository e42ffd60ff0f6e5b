"""An empty environment, the wheel in it, and a run of tests outside of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rows import NEWEST, Row

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "out" / "matrix"
"""What pytest said, a file for each row."""

CACHES = (".pytest_cache", ".ruff_cache", ".hypothesis", ".cache")
"""What other tools may be writing at the same time."""

WITHOUT = ("lds_iter", ".git", ".venv", "site", "out", "build", "dist", *CACHES)
"""What a copy of the repository leaves out: with the package away, tests can only import what was installed."""

OF_SOURCES = ("docs",)
"""Extras that work on the sources, not on what is installed."""

TOOLS = ("numpy", "pytest", "pytest-xdist", "hypothesis", "pyyaml", "setuptools")
"""What the tests themselves need (without numpy torch warns), at the versions of `constraints.txt`, where the row does
not ask for them itself."""

AT_THE_LOWEST = ("-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning")
"""An old version of what we require meets the newest of what that requires, and is told what it should change."""

LIMIT_SECONDS = 1500
"""A run of tests that takes longer is ended, and counts as failed."""

SHOW = "import importlib.metadata as m; print('\\n'.join(sorted(f'{d.name}=={d.version}' for d in m.distributions())))"
WHERE = "import lds_iter; print(lds_iter.__file__)"
SOLVES = (
    "import torch, lds_iter as li; "
    "assert li.solve(lambda s, u: torch.tanh(0.5 * s + u), torch.zeros(4), torch.randn(1000, 4)).converged"
)
"""What the package must do with no more than it requires."""


@dataclass(frozen=True)
class Counts:
    """Tests of a row, and the names of those that failed."""

    passed: int
    failed: int
    skipped: int
    which: list[str]


class Failed(Exception):
    """A row that has no tests to count: it says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made by `uv`.

    Attributes:
        uv: the program.
        folder: of the environment.
        python: its interpreter.
    """

    uv: str
    folder: Path
    python: Path

    def install(self, *words: str) -> None:
        run([self.uv, "pip", "install", "--quiet", "--python", str(self.python), *words])

    def versions(self) -> dict[str, str]:
        return dict(line.split("==") for line in run([str(self.python), "-c", SHOW], Path("/")).split())


def run(command: list[str], where: Path = ROOT, limit: float = 1200) -> str:
    """The output of a command.

    Raises:
        Failed: when it fails, with the end of what it said.
    """
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=limit, env=settings())
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise Failed(" ".join(said[-8:])[-800:])
    return done.stdout


def settings() -> dict[str, str]:
    """The environment of every command: uv looks where pip was told to look."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if "PIP_FIND_LINKS" in kept:
        kept.setdefault("UV_FIND_LINKS", kept["PIP_FIND_LINKS"])
    return kept


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv") or "uv"


def interpreter(version: str) -> str:
    """A Python of that version: of the PATH, of pyenv, or one that uv finds or downloads.

    Raises:
        Failed: where there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [sys.executable, shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for path in found:
        if path and _version(str(path)) == version:
            return str(path)
    try:
        run([uv(), "python", "install", "--quiet", version], limit=120)
        return run([uv(), "python", "find", version]).strip()
    except (Failed, subprocess.TimeoutExpired):
        raise Failed(f"no Python {version} is on this machine, and uv can download none") from None


def _version(path: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def requirements(row: Row, folder: Path) -> Path:
    """All requirements of a row, with versions: of the package and the extra at their minimum, of theirs the newest."""
    out = folder / "requirements.txt"
    extra = ["--extra", row.extra] if row.extra else []
    how = ["--resolution", "lowest-direct"] if row.lowest else []
    given = [] if not row.torch or row.torch == NEWEST else ["--constraint", _line(folder, f"torch=={row.torch}")]
    command = [uv(), "pip", "compile", "--quiet", "--no-header", "--python-version", row.python, *how, *extra, *given]
    run([*command, "pyproject.toml", "--output-file", str(out)])
    return out


def _line(folder: Path, text: str) -> str:
    (folder / "constraint.txt").write_text(text + "\n")
    return str(folder / "constraint.txt")


def made(row: Row, wheel: Path, folder: Path) -> Environment:
    """An environment with the wheel, its requirements and the tools of the tests.

    Raises:
        Failed: where there is no such Python, something cannot be installed, or the package does not solve before the
            tools are there.
    """
    run([uv(), "venv", "--quiet", "--python", interpreter(row.python), str(folder / "venv")])
    environment = Environment(uv(), folder / "venv", folder / "venv" / "bin" / "python")
    environment.install("--requirement", str(requirements(row, folder)))
    environment.install("--no-deps", str(wheel))
    run([str(environment.python), "-W", "ignore", "-c", SOLVES], folder)
    have = environment.versions()
    missing = [tool for tool in TOOLS if tool not in have]
    if missing:
        environment.install("--constraint", str(_pinned(folder, missing)), *missing)
    return environment


def _pinned(folder: Path, names: list[str]) -> Path:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (folder / "tools.txt").write_text("\n".join(line for line in lines if line.split("==")[0] in names))
    return folder / "tools.txt"


def tested(environment: Environment, row: Row, folder: Path) -> Counts:
    """How many tests passed, failed and were skipped, and which failed.

    Raises:
        Failed: when no test passed.
    """
    copy, log = folder / "copy", LOGS / f"{re.sub(r'[ ,]+', '-', row.name)}.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    without = [name for name in WITHOUT if not (name == "lds_iter" and row.extra in OF_SOURCES)]
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*without, "__pycache__"))
    where = run([str(environment.python), "-c", WHERE], copy).strip()
    if row.extra not in OF_SOURCES and not where.startswith(str(environment.folder)):
        raise Failed(f"the tests would import {where}")
    there = {**settings(), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    lenient = AT_THE_LOWEST if row.lowest else ()
    command = [str(environment.python), "-m", "pytest", "--hypothesis-profile=few", *lenient, *row.tests]
    with log.open("w") as said:
        done = subprocess.run(
            command, cwd=copy, env=there, stdout=said, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS, check=False
        )
    if done.returncode < 0:
        raise Failed(f"the tests were ended by signal {-done.returncode}")
    counts = counted(log.read_text())
    if not counts.passed:
        raise Failed(f"no test passed, see {log.name}")
    return counts


def counted(said: str) -> Counts:
    """What pytest's last lines say."""
    last = said.strip().splitlines()[-1] if said.strip() else ""
    number = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    which = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return Counts(
        number.get("passed", 0), number.get("failed", 0) + number.get("error", 0), number.get("skipped", 0), which
    )


def wheel(folder: Path) -> Path:
    """The wheel of this checkout, built of a copy: a folder `build` that lies here would get into it."""
    copy = folder / "source"
    shutil.copytree(ROOT / "lds_iter", copy / "lds_iter", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run([uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(copy)])
    return next(folder.glob("*.whl"))
