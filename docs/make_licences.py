"""Write the licences of what `pyproject.toml` asks for into `docs/about/licences.md`: `python -m docs.make_licences`.

They are read from the metadata of what is installed, so all extras must be; `make setup` leaves out those of `peers`.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from bench.common import pages
from recipes.files import write

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "about" / "licences.md"
COMMAND = "python -m docs.make_licences"
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
SHORT = 60
"""Characters; a field that is longer holds the text of the licence."""


def requirements() -> dict[str, list[str]]:
    """For each distribution that is asked for, by whom: the package itself or its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {
        "the package": project["dependencies"],
        **project["optional-dependencies"],
    }
    found: dict[str, list[str]] = {}
    for group, lines in groups.items():
        for line in lines:
            name = REQUIREMENT.match(line)
            if name and name[0] != project["name"]:
                found.setdefault(name[0], []).append(group)
    return found


def licence(name: str) -> str | None:
    """As a distribution's metadata say; None where it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if "License-Expression" in metadata:
        return " ".join(metadata["License-Expression"].split())
    said = metadata.get("License", "").strip()
    classifiers = [
        line
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    if said and len(said) < SHORT and said != "UNKNOWN":
        return said
    return (
        ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
        or "not said"
    )


def known() -> dict[str, str]:
    """The licences that the page has."""
    rows = re.findall(
        r"^\| `(\S+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE
    )
    return dict(rows)


def section() -> str:
    """The table: what is installed as its metadata say now, the rest as the page has it."""
    before = known()
    lines = [
        [
            f"`{name}`",
            licence(name) or before.get(name, "not installed"),
            ", ".join(groups),
        ]
        for name, groups in sorted(requirements().items())
    ]
    return pages.markdown(["Distribution", "Licence", "Asked for by"], lines)


if __name__ == "__main__":
    write(PAGE, pages.between(PAGE.read_text(), COMMAND, section()))
    sys.exit(0)
