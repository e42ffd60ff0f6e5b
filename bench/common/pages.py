"""What the pages that commands write have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.files import write


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; numbers should come formatted."""
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *lines])


def between(page: str, command: str, section: str) -> str:
    """The page with `section` in place of what lies between the marks of `command`.

    Raises:
        ValueError: when the page does not have the marks, each once.
    """
    begin, end = f"<!-- begin: {command} -->", f"<!-- end: {command} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have {begin} and {end} on lines of their own, each once.")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{section.strip()}\n{end}{rest.split(end)[1]}"


def keep(results: object, file: Path, page: Path | None = None, text: str = "") -> None:
    """Write figures as JSON and, where a page shows them, the page; folders are made if missing.

    Args:
        results: what `json.dumps` takes.
        file: where the figures go.
        page: where the text goes.
        text: the whole page, made from the figures alone.
    """
    for path, content in (file, json.dumps(results, indent=1) + "\n"), (page, text):
        if path is not None:
            write(path, content)


def keep_of_device(
    results: dict[str, Any],
    name: str,
    page: Path,
    command: str,
    section: Callable[[dict[str, Any]], str],
    *,
    folder: Path,
    out: Path | None,
) -> None:
    """Write the figures of one device, and the page with those of all of them: a run keeps what others have shown.

    Args:
        results: of this device.
        name: of the file, without its ending.
        page: where the sections go, between the marks of `command`.
        command: see `between`.
        section: what the page says of one device.
        folder: of this device, beside those of the others.
        out: where to write instead, so that the repository stays as it is.
    """
    folder = folder if out is None else out / "device"
    keep(results, folder / f"{name}.json")
    files = sorted(folder.parent.glob(f"*/{name}.json"))
    sections = "\n\n".join(section(json.loads(file.read_text())).strip() for file in files)
    target = page if out is None else out / f"{name}.md"
    write(target, between(page.read_text(), command, sections))
