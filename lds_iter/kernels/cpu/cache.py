"""The cache of compiled libraries: their folder, and the test that a library may be loaded.

A library is code that runs with all rights of its user. So it is loaded only from a folder that belongs to the user and
that nobody else can write to, which is no link, below folders of the user or of the system; and only if the same holds
for the file. Where `$XDG_CACHE_HOME` is no such place, or cannot be written to, a private folder serves for as long as
the process lives.

The name of a library tells what it was made from and which bytes it holds, `SOURCE-KEY-CONTENT.so`: a file that was cut
short, by a full disk or a power cut, is found out before it is loaded. It appears by an atomic rename, after its bytes
are on the disk, so that any number of processes may build at once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

STALE_SECONDS = 3600
"""Seconds after which a build removes the folder that an earlier, killed build has left."""

ROOM_BYTES = 2**20
"""Bytes that a folder must have left for a library; the largest takes a third of it."""

LOG = logging.getLogger("lds_iter")


def folder() -> Path:
    """The folder of the libraries, which is trusted; made where it is missing.

    Raises:
        OSError: where not even a private one can be made.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if given.startswith("/") else Path.home() / ".cache"  # the standard ignores relative ones
    except RuntimeError:
        return private("there is no home folder")
    if not base.is_absolute():
        return private(f"{base} is not an absolute path")
    wanted = base / "lds_iter"
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:  # a disk that cannot be written, a file in the way, a quota
        return private(str(error))
    reason = _distrust(wanted)
    return wanted if reason is None else private(reason)


def find(source: str, key: str, where: Path) -> Path | None:
    """The library made of `source`, if there is one that is whole and trusted; others of that name are removed."""
    for path in sorted(where.glob(f"{source}-{key}-*.so")):
        with contextlib.suppress(OSError):  # gone, or of a disk that cannot be written
            if _whose(path) is None and path.stem.rsplit("-", 1)[1] == content(path):
                return path
            path.unlink()
    return None


def keep(made: Path, source: str, key: str, where: Path) -> Path:
    """Put a new library, a file on the same disk, where `find` finds it."""
    target = where / f"{source}-{key}-{content(made)}.so"
    made.chmod(0o700)
    _sync(made)
    made.replace(target)
    _sync(where)
    return target


def check_room(where: Path) -> None:
    """Nothing, where a library fits into a folder.

    Raises:
        OSError: where the folder cannot be written to, its disk is full, or a quota is used up.
    """
    with tempfile.TemporaryFile(dir=where) as file:
        file.write(bytes(ROOM_BYTES))
        file.flush()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stale(where: Path) -> None:
    """Remove the folders that killed builds have left."""
    for path in where.glob("build-*"):
        try:
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # another process was faster
            continue


def _distrust(where: Path) -> str | None:
    """Why libraries in a folder are not loaded; None where they are."""
    reason = _whose(where)
    if reason is not None or not hasattr(os, "getuid"):
        return reason
    for above in where.resolve().parents:
        found = above.stat()
        if found.st_uid not in (0, os.getuid()):
            return f"{above} belongs to another user"
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"everybody can write to {above}"
    return None


def _whose(path: Path) -> str | None:
    """Why a folder or file may not be our own; None where it is, and nobody else can write to it."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link"
    if not hasattr(os, "getuid"):
        return None
    if found.st_uid != os.getuid():
        return f"{path} belongs to another user"
    return f"others can write to {path}" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def content(path: Path) -> str:
    """A hash of the bytes of a library, which its name holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


@functools.cache
def private(reason: str) -> Path:
    """A folder for this process alone, removed at its end."""
    LOG.warning("lds_iter compiles its CPU kernels for this process alone: %s", reason)
    where, owner = Path(tempfile.mkdtemp(prefix="lds_iter-")), os.getpid()

    @atexit.register
    def _() -> None:
        if os.getpid() == owner:  # a forked process leaves it alone
            shutil.rmtree(where, ignore_errors=True)

    return where
