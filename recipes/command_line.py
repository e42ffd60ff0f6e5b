"""How the command lines of all recipes end where something is amiss: one line, and code 2."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import torch
import typer

from recipes.files import BrokenFile

P = ParamSpec("P")
R = TypeVar("R")

CUT_OFF_WRITING = ("PytorchStreamWriter failed", "unexpected pos")
"""How torch says that a file could not be written, on a full disk for one."""


def fail(error: Exception | str) -> NoReturn:
    """End with one line on the error stream and code 2."""
    typer.secho(" ".join(str(error).split()), fg="red", err=True)
    raise typer.Exit(2)


def in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    """A command whose failures to read or write files (a full disk, a missing right, half a file) end in one line."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BrokenFile as error:
            fail(error)
        except OSError as error:
            where = "" if error.filename is None else f": {error.filename}"
            fail(f"{error.strerror or error}{where}. Free some space or rights, or choose another folder by --out.")
        except RuntimeError as error:
            if not any(words in str(error) for words in CUT_OFF_WRITING):
                raise
            fail("A file could not be written as a whole. Free some space, or choose another folder by --out.")

    return command


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """One of the names that an option knows."""
    names = list(known)
    if value not in names:
        raise typer.BadParameter(f"must be one of {', '.join(names)}, got {value}.", param_hint=option)


def check_folder(folder: Path) -> None:
    """A folder that can be made and written into, before anything is computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"cannot write into {folder} ({error.strerror}); choose another folder.", param_hint="--out"
        ) from error


def check_checkpoint(path: Path, other: Path) -> None:
    """A checkpoint that is whole.

    Args:
        path: of the checkpoint.
        other: of one to take in its place.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        instead = f"Copy {other} over it, or delete" if other.is_file() else "Delete"
        raise typer.BadParameter(
            f"{path} is no whole checkpoint ({path.stat().st_size} bytes, {type(error).__name__}). {instead} "
            f"{path.parent.parent} and begin anew.",
            param_hint="--resume",
        ) from error
