"""The blocks of Python of the README and the guide, on the device, as a reader would run them there."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import torch

from bench.gpu.stages.base import Figures, Rows, Where

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n+)?```python[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)
FIRST = "index.md", "start", "lessons", "learn", "howto"
"""Folders of the guide, the most read first."""


def pages() -> list[Path]:
    """The README, and the pages that have blocks."""
    guide = sorted((ROOT / "docs").rglob("*.md"), key=lambda page: (_rank(page), str(page)))
    return [page for page in (ROOT / "README.md", *guide) if BLOCK.search(page.read_text())]


def _rank(page: Path) -> int:
    folder = page.relative_to(ROOT / "docs").parts[0]
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def rows(where: Where) -> Rows:
    """One for each page."""
    return {str(page.relative_to(ROOT)): partial(run, where, page) for page in pages()}


def run(where: Where, page: Path) -> Figures:
    """All blocks in one namespace, with tensors made on the device; what they print may differ in its digits.

    Raises:
        Exception: whatever a block raises; the traceback says where.
    """
    text, namespace, differ, blocks = page.read_text(), {"__name__": "__main__"}, 0, 0
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, torch.device(where.device):
        os.chdir(folder)
        try:
            for match in BLOCK.finditer(text):
                if match["skip"]:
                    continue
                blocks += 1
                line, printed = text[: match.start("code")].count("\n"), io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("\n" * line + match["code"], str(page), "exec"), namespace)
                differ += not _as_said(match["code"], printed.getvalue())
        finally:
            os.chdir(here)
    return {"blocks": blocks, "printed_otherwise": differ, "line": f"{blocks} blocks, {differ} print otherwise"}


def _as_said(code: str, printed: str) -> bool:
    """Whether a block printed what its `# prints:` comments say, where `...` stands for anything."""
    said = "".join(line + "\n" for line in PRINTS.findall(code))
    return doctest.OutputChecker().check_output(said, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
