"""Test the wheel in empty environments: `python tests/matrix`, for each Python and torch, and at all minimum versions.

Writes `result.json` beside itself after each row, and the table of `docs/about/tested.md`. A row whose Python cannot be
had here keeps its earlier outcome; without one it counts as not tested. Takes about an hour, and
6 GB of disk for each torch that uv keeps.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from environment import Failed, interpreter, made, tested, wheel  # noqa: E402
from rows import Row, rows  # noqa: E402

from bench.common import pages  # noqa: E402
from recipes.files import write  # noqa: E402

RESULT = Path(__file__).with_name("result.json")
PAGE = ROOT / "docs" / "about" / "tested.md"
COMMAND = "make matrix"


def main() -> int:
    parser = argparse.ArgumentParser(prog="matrix", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name matches this expression, such as `lowest`")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--without-result", action="store_true", help="write no file, as CI does")
    parser.add_argument("--quick", action="store_true", help="run the first file of tests of each row alone")
    options = parser.parse_args()
    chosen = [row for row in rows(pinned_torch()) if re.search(options.only, row.name)]
    if options.quick:
        chosen = [replace(row, tests=row.tests[:1]) for row in chosen]
    if options.list:
        print("\n".join(row.name for row in chosen))
        return 0
    return _all(chosen, keep=not options.without_result)


def _all(chosen: list[Row], keep: bool) -> int:
    bad = 0
    with tempfile.TemporaryDirectory(prefix="matrix-") as place:
        built = wheel(Path(place))
        for row in chosen:
            outcome = _outcome(row, built, Path(place))
            bad += outcome["outcome"] not in ("passed", "no interpreter")
            print(f"{row.name}: {_said(outcome)}", flush=True)
            if keep:
                _keep(row, outcome)
    return int(bad > 0)


def _outcome(row: Row, built: Path, place: Path) -> dict:
    began, folder = time.monotonic(), place / "row"
    try:
        interpreter(row.python)
    except Failed as error:
        return {"outcome": "no interpreter", "reason": str(error)}
    folder.mkdir()
    found: dict = {"outcome": "failed", "date": str(datetime.date.today())}
    try:
        environment = made(row, built, folder)
        found["versions"] = environment.versions()
        found |= asdict(tested(environment, row, folder))
        found["outcome"] = "failed" if found["failed"] else "passed"
    except (Failed, subprocess.TimeoutExpired) as error:
        found["reason"] = str(error)
    shutil.rmtree(folder)
    return found | {"minutes": round((time.monotonic() - began) / 60, 1)}


def _said(outcome: dict) -> str:
    if "passed" not in outcome:
        return f"{outcome['outcome']}: {outcome['reason']}"
    return (
        f"{outcome['passed']} passed, {outcome['failed']} failed, {outcome['skipped']} skipped {outcome['which'] or ''}"
    )


def _keep(row: Row, outcome: dict) -> None:
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if outcome["outcome"] == "no interpreter" and row.name in results:
        print(f"  the outcome of {results[row.name].get('date')} stays")
    else:
        results[row.name] = outcome
    names = [row.name for row in rows(pinned_torch())]
    results = {name: results[name] for name in names if name in results}
    write(RESULT, json.dumps(results, indent=1) + "\n")
    write(PAGE, pages.between(PAGE.read_text(), COMMAND, section(results)))


def section(results: dict[str, dict]) -> str:
    """The tables of the page."""
    head = ["Environment", "torch", "tests passed", "failed", "skipped", "on"]
    lines = [[name, *_cells(outcome)] for name, outcome in results.items() if "lowest" not in name]
    low = [[name, *_cells(outcome)] for name, outcome in results.items() if "lowest" in name]
    return f"{pages.markdown(head, lines)}\nMinimum versions:\n\n{pages.markdown(head, low)}"


def _cells(outcome: dict) -> list[str]:
    torch = outcome.get("versions", {}).get("torch", "")
    if "passed" not in outcome:
        return [torch, f"not tested: {outcome['reason']}", "", "", outcome.get("date", "")]
    return [torch, *(str(outcome[word]) for word in ("passed", "failed", "skipped")), outcome["date"]]


def pinned_torch() -> str:
    return re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


if __name__ == "__main__":
    sys.exit(main())
