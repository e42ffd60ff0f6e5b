"""Make the notebooks of the recipes: `python -m docs.make_notebook` runs `docs/notebooks/*.py` into `.ipynb` files.

A source is Python with cells after `# %%`, and text after `# %% [markdown]`. Cells are run here, without a kernel; what
they print and draw becomes their output.
"""

from __future__ import annotations

import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import nbformat
from nbformat import v4

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "docs" / "notebooks").glob("*.py"))


def target(source: Path) -> Path:
    """Where a notebook goes: the folder of the recipe of that name."""
    return ROOT / "recipes" / source.stem / f"{source.stem}.ipynb"


def cells(source: str) -> list[tuple[str, str]]:
    """Kind, `markdown` or `code`, and text of each cell."""
    found = []
    for part in source.split("# %%")[1:]:
        head, _, text = part.partition("\n")
        if "[markdown]" in head:
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines()]
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", text.strip()))
    return found


def run(code: str, namespace: dict[str, Any]) -> list[Any]:
    """The outputs of a cell: what it prints, and the figures that it leaves open."""
    import matplotlib.pyplot as plt

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "cell", "exec"), namespace)
    outputs = [v4.new_output("stream", name="stdout", text=printed.getvalue())] if printed.getvalue() else []
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        outputs.append(v4.new_output("display_data", data=data))
    plt.close("all")
    return outputs


def notebook(source: str) -> Any:
    """The notebook of a source, run."""
    import matplotlib as mpl

    mpl.use("agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    made, count = [], 0
    for place, (kind, text) in enumerate(cells(source)):
        if kind == "markdown":
            cell = v4.new_markdown_cell(text)
        else:
            count += 1
            cell = v4.new_code_cell(text, outputs=run(text, namespace), execution_count=count)
        cell["id"] = f"cell-{place}"
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def main() -> None:
    """Write all of them."""
    for path in SOURCES:
        nbformat.write(notebook(path.read_text()), target(path))
        print(target(path))


if __name__ == "__main__":
    main()
