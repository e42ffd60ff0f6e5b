"""The notebooks as pages of the guide: `docs/notebooks/NAME.ipynb` is read, never run, when the guide is built.

Text and code stand as they are, what a cell printed follows it, and its pictures are written for light and for dark.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mkdocs.structure.files import File

NOTEBOOKS = Path(__file__).parent / "notebooks"

CANVAS = runpy.run_path(
    str(Path(__file__).parent.parent / "recipes" / "canvas.py")
)
"""By its path: the builder of the guide does not run from the root of the repository."""

COLAB = "https://colab.research.google.com/github"
"""Opens a notebook of a repository on GitHub; the path of `repo_url` says which."""


def on_files(files: Any, *, config: Any) -> Any:
    """Add a page for each notebook, and the pictures on it."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page, pictures = rendered(path, config["repo_url"])
        for name, text in {f"{path.stem}.md": page, **pictures}.items():
            files.append(
                File.generated(config, f"notebooks/{name}", content=text)
            )
    return files


def rendered(path: Path, repository: str) -> tuple[str, dict[str, str]]:
    """The page in Markdown, and its pictures by the names of their files."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(
            source
            if cell["cell_type"] == "markdown"
            else f"```python\n{source}\n```"
        )
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(
                    "``` { .text .no-copy }\n"
                    + "".join(output["text"]).rstrip()
                    + "\n```"
                )
            else:
                name, svg = (
                    f"{path.stem}-{len(pictures) // 2}",
                    "".join(output["data"]["image/svg+xml"]),
                )
                pictures |= {
                    f"{name}.svg": svg,
                    f"{name}-dark.svg": CANVAS["dark"](svg),
                }
                parts.append(f"![What the cell draws]({name}.svg#both)")
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join(
        [title, badge(path, repository), rest.strip(), *parts[1:]]
    ) + "\n", pictures


def badge(path: Path, repository: str) -> str:
    """Where to open a notebook, and the file itself."""
    address = f"{COLAB}{urlparse(repository).path.removesuffix('.git')}/blob/main/docs/notebooks/{path.name}"
    return f"[Open in Colab]({address}){{ .md-button .md-button--primary }} [Download]({path.name}){{ .md-button }}"
