"""Make the notebooks: `python -m docs.make_notebook [NAME ...]` runs `docs/notebooks/*.py` into `.ipynb` files.

A source is Python with cells after `# %%`, and text after `# %% [markdown]`. Cells are run here, without a kernel; what
they print and draw becomes their output. `docs/notebook_pages.py` shows the files as pages of the guide.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat import v4

from recipes.canvas import pyplot, vector
from recipes.files import write

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "docs" / "notebooks").glob("*.py"))


def read(source: Path) -> str:
    """A source, with the address of the repository filled in."""
    found = re.search(
        r"^repo_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert found
    return source.read_text().replace("{{ repo_url }}", found[1])


def cells(source: str) -> list[tuple[str, str]]:
    """Kind, `markdown` or `code`, and text of each cell."""
    found = []
    for part in source.split("# %%")[1:]:
        head, _, text = part.partition("\n")
        if "[markdown]" in head:
            lines = [
                line.removeprefix("#").removeprefix(" ")
                for line in text.strip().splitlines()
            ]
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", text.strip()))
    return found


def run(code: str, namespace: dict[str, Any]) -> list[Any]:
    """The outputs of a cell: what it prints, and the figures that it leaves open."""
    plt, printed = pyplot(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "cell", "exec"), namespace)
    outputs = (
        [v4.new_output("stream", name="stdout", text=printed.getvalue())]
        if printed.getvalue()
        else []
    )
    for number in plt.get_fignums():
        data, ground = (
            {"image/svg+xml": vector(plt.figure(number))},
            {"needs_background": "light"},
        )
        outputs.append(
            v4.new_output("display_data", data=data, metadata=ground)
        )
    plt.close("all")
    return outputs


def notebook(source: str) -> Any:
    """The notebook of a source, run."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    made, count = [], 0
    for place, (kind, text) in enumerate(cells(source)):
        if kind == "markdown":
            cell = v4.new_markdown_cell(text)
        else:
            count += 1
            cell = v4.new_code_cell(
                text, outputs=run(text, namespace), execution_count=count
            )
        cell["id"] = f"cell-{place}"
        made.append(cell)
    kernel = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    return v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def main(names: list[str]) -> None:
    """Write those named, or all."""
    for path in SOURCES:
        if not names or path.stem in names:
            write(
                path.with_suffix(".ipynb"),
                nbformat.writes(notebook(read(path))) + "\n",
            )
            print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
