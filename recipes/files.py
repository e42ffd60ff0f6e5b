"""Files that are whole at every moment: a new one takes the place of the old one when all of it is on the disk.

Those that are not, because others wrote them, are named in the error of whoever reads them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".part-"
"""Of the folder, beside a file, in which its successor is written."""

STALE_SECONDS = 3600
"""Seconds after which such a folder is taken for one of a process that was killed, and removed."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write the new contents of a file; afterwards they take its place in one step.

    A full disk, an exception or SIGKILL at any moment leaves the old file as it was. The folder is made if missing; a
    link stays one, to the new file.

    Args:
        path: of the file.

    Yields:
        A path of the same name in a folder beside it.

    Raises:
        OSError: when the disk is full, or the folder cannot be written to.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        yield fresh
        _sync(fresh)
        fresh.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)


def write(path: Path, text: str) -> None:
    """Write a text file, see `whole`."""
    with whole(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


class BrokenFile(ValueError):
    """A file that is not whole, or of another kind."""


@contextlib.contextmanager
def reading(path: Path, cure: str) -> Iterator[None]:
    """Name a file in the error of whatever reads it.

    Args:
        path: of the file.
        cure: what to type.

    Raises:
        BrokenFile: in place of any exception but a missing file's.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        what = f"{path} is not whole, or of another kind ({path.stat().st_size} bytes, {type(error).__name__})"
        raise BrokenFile(f"{what}. {cure}") from error


def whole_lines(path: Path) -> list[str]:
    """The lines of a log, without half of one at the end that a killed process has left; none where there is no log."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(folder: Path) -> None:
    for left in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
