"""The one file of a visit: every row the moment it is known, never more than 8 MiB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipes.files import reading, write

LARGEST_BYTES = 8 << 20
"""Of the file. A row that does not fit is kept without its figures."""

TEXT_CHARACTERS = 2000
"""Of an error's text."""

LINE_CHARACTERS = 200
"""Of what the report says of a row that was not done."""

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


class Record:
    """The rows of a visit, by stage and name; what a former visit wrote is read again.

    A row is `{"state": "done", "seconds": s, ...figures}`, `{"state": "failed", "error": text}` or `{"state":
    "skipped", "reason": text}`; `line` is what the report says of it, by default the last line of the text.

    Args:
        file: where they are kept.
        machine: what `bench.common.machine.describe` says.

    Raises:
        ValueError: when the file is of another device or torch, or of no visit at all.
    """

    def __init__(self, file: Path, machine: dict[str, Any]) -> None:
        self.file, self.machine = file, machine
        self.stages: dict[str, dict[str, dict[str, Any]]] = {}
        if file.exists():
            with reading(file, "Give another `--out`, or move the file away."):
                kept = json.loads(file.read_text())
            before, now = (f"{one['device']} and torch {one['torch']}" for one in (kept["machine"], machine))
            if before != now:
                raise ValueError(f"{file} is of {before}, this is {now}: give another `--out`, or move the file away.")
            self.stages = kept["stages"]

    def state(self, stage: str, name: str) -> str:
        """Of a row; empty when nothing is known of it."""
        return self.stages.get(stage, {}).get(name, {}).get("state", "")

    def put(self, stage: str, name: str, row: dict[str, Any]) -> None:
        """Keep a row, and write the file."""
        row = {key: value[-TEXT_CHARACTERS:] if isinstance(value, str) else value for key, value in row.items()}
        self.stages.setdefault(stage, {})[name] = row
        if len(self._text()) > LARGEST_BYTES:
            self.stages[stage][name] = {"state": FAILED, "error": f"{len(json.dumps(row))} bytes did not fit the file"}
        write(self.file, self._text())  # at once or not at all: a visit that is cut off leaves a whole file

    def _text(self) -> str:
        return json.dumps({"machine": self.machine, "stages": self.stages}, indent=1) + "\n"


def outcome(row: dict[str, Any]) -> str:
    """What became of a row, in one line."""
    said = row.get("line") or row.get("reason") or row.get("error", "").strip().rpartition("\n")[2]
    return said or DONE if row["state"] == DONE else f"{row['state']}: {said[:LINE_CHARACTERS]}"
