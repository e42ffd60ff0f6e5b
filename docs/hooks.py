"""What the build of the guide does to pages: addresses and version, descriptions, the weight of pages in the search."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BOOST = {
    "index": 0.7,
    "start": 1.5,
    "recipes": 1.8,
    "notebooks": 1.5,
    "lessons": 2.0,
    "learn": 2.0,
    "howto": 2.5,
    "about": 1.5,
    "background": 0.3,
    "reference": 0.7,
}
"""How much a page weighs in the search, by its folder; 1 where nothing is said."""

LONGEST_DESCRIPTION = 160
"""Characters of a description; search engines show no more."""

FOLDED_ROWS = 12
"""A table of evidence with more rows than this is folded."""

TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
PAIR = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)#]+)\.svg#both\)")


def version() -> str:
    """The version of the package, read from its source."""
    source = (ROOT / "lds_iter" / "__init__.py").read_text()
    found = re.search(r'__version__ = "([^"]+)"', source)
    return found[1] if found else ""


def python_and_torch() -> dict[str, str]:
    """The least versions that the package asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(
        entry for entry in project["dependencies"] if entry.startswith("torch")
    )
    return {
        "python": project["requires-python"].lstrip(">="),
        "torch": torch.removeprefix("torch>="),
    }


def on_page_markdown(
    markdown: str, *, page: Any, config: Any, files: Any
) -> str:
    """Fill in what is said in one place only, and the page's description and weight in the search."""
    del files
    if page.file.src_uri == "reference/index.md":
        markdown = markdown.replace("{{ names }}", index_of_names())
    words = {
        "repo_url": config["repo_url"].rstrip("/"),
        "version": version(),
        **python_and_torch(),
    }
    for name, text in words.items():
        markdown = markdown.replace("{{ " + name + " }}", text)
    page.meta.setdefault(
        "description", description(markdown) or config["site_description"]
    )
    folder = page.file.src_uri.split("/")[0].removesuffix(".md")
    if folder in BOOST:
        page.meta.setdefault("search", {}).setdefault("boost", BOOST[folder])
    if folder == "background":
        markdown = TABLE.sub(folded, markdown + "\n")
    return PAIR.sub(both_schemes, markdown)


def folded(match: re.Match[str]) -> str:
    """A long table behind a line that opens it."""
    table = match[0]
    rows = table.count("\n") - 2
    if rows <= FOLDED_ROWS:
        return table
    return f'<details markdown="1"><summary>{rows} rows</summary>\n\n{table}\n</details>\n'


def index_of_names() -> str:
    """All names of the reference pages, sorted by their last part, with a heading for each letter."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    names = [
        name
        for page in pages
        for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.MULTILINE)
    ]
    lines, letter = [], ""
    for name in sorted(
        names, key=lambda name: (name.rsplit(".", 1)[1].lower(), name)
    ):
        last = name.rsplit(".", 1)[1]
        if last[0].upper() != letter:
            letter = last[0].upper()
            lines.append(f"\n## {letter}\n")
        lines.append(f"- [`{last}`][{name}] in `{name.rsplit('.', 1)[0]}`")
    return "\n".join(lines)


def both_schemes(match: re.Match[str]) -> str:
    """A picture that was drawn for light and for dark: each shows in its scheme."""
    return "\n".join(
        f"![{match['alt']}]({match['path']}{ending}.svg){{.only-{scheme}}}"
        for scheme, ending in (("light", ""), ("dark", "-dark"))
    )


def description(markdown: str) -> str:
    """The first sentence of the first paragraph, as plain text."""
    for paragraph in markdown.split("\n\n"):
        text = " ".join(paragraph.split())
        if (
            text
            and text[0].isalpha()
            and not text.startswith(("http", "hide:", "title:"))
        ):
            text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
            text = re.sub(r"[`*_]|\\[()]", "", text)
            sentence = re.split(r"(?<=[.!?:]) ", text)[0]
            return (
                sentence
                if len(sentence) <= LONGEST_DESCRIPTION
                else sentence[: LONGEST_DESCRIPTION - 1] + "…"
            )
    return ""
