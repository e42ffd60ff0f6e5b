"""Hold many random cases to the laws: `python tests/contract/fuzz --cases 100000 --processes 2`.

Writes `result.json` beside itself as it goes on. A run that was cut off goes on where it stopped, as long as the code
and the first seed are the same. `--repeat SEED` runs one case again and says what it breaks.
"""

import argparse
import ast
import hashlib
import json
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from fuzz.running import Outcome, one_thread, run_chunk, run_seed  # noqa: E402

from recipes.files import write  # noqa: E402

RESULT = Path(__file__).with_name("result.json")
CHUNK = 50
"""Seeds that a process takes at a time."""

ABOVE = ("ode", "mcmc", "depth", "diffusion", "nn", "diagnostics", "testing")
"""Rooms that no case enters."""

SHOWN = 50
"""Failures that are kept in words."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no more cases after so long")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="run one case and report")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    one_thread()
    if options.repeat is not None:
        outcome = run_seed(options.repeat)
        print(outcome)
        return int(bool(outcome.broken))
    return _campaign(options)


def _campaign(options: argparse.Namespace) -> int:
    tally = _tally(options)
    begin, before = time.monotonic(), tally["cases"]
    first, end = options.seed + before, options.seed + options.cases
    chunks = [range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
    print(f"{end - first} cases from seed {first} on", flush=True)
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=one_thread) as pool:
        for outcomes in pool.map(run_chunk, chunks):  # raises where a process has died of a case
            for outcome in outcomes:
                _count(tally, outcome)
            write(options.result, json.dumps(tally, indent=2) + "\n")
            minutes, done = (time.monotonic() - begin) / 60, tally["cases"] - before
            rate = f"{minutes:.1f} minutes, {done / minutes:.0f} a minute"
            print(f"{tally['cases']} of {options.cases} cases, failures: {tally['failures']}; {rate}", flush=True)
            if minutes > options.minutes:
                pool.shutdown(wait=True, cancel_futures=True)
                break
    return int(tally["failures"] > 0)


def _tally(options: argparse.Namespace) -> dict:
    """What has been counted so far: nothing, or the result of a run of the same seeds and code that was cut off."""
    tally = {
        "first seed": options.seed,
        "cases": 0,
        "failures": 0,
        "cases by kind": {},
        "failures by law": {},
        "remarks": {},
        "failed": [],
        "code": _code(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "processes": options.processes},
    }
    if not options.result.exists():
        return tally
    before = json.loads(options.result.read_text())
    same = all(before.get(name) == tally[name] for name in ("first seed", "code", "versions"))
    return before if same and before["cases"] < options.cases else tally


def _count(tally: dict, outcome: Outcome) -> None:
    def add(name: str, key: str) -> None:
        tally[name] = dict(Counter(tally[name]) + Counter([key]))

    tally["cases"] += 1
    add("cases by kind", outcome.kind)
    if outcome.remark:
        add("remarks", outcome.remark)
    for law in outcome.broken:
        add("failures by law", law.partition(":")[0])
    if outcome.broken:
        tally["failures"] += 1
        print(f"{outcome}\n    again: python tests/contract/fuzz --repeat {outcome.seed}", flush=True)
        if len(tally["failed"]) < SHOWN:
            tally["failed"].append(str(outcome))


def _code() -> str:
    """A hash of what a solve runs through, prose apart, and of what draws and judges the cases."""
    rooms = [path for path in sorted((ROOT / "lds_iter").rglob("*.*")) if path.relative_to(ROOT).parts[1] not in ABOVE]
    digest = hashlib.sha256()
    for path in [*rooms, *sorted((ROOT / "tests/support/fuzz").rglob("*.py"))]:
        if path.suffix == ".py":
            digest.update(_statements(path.read_text()).encode())
        elif path.suffix in (".cpp", ".h"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _statements(text: str) -> str:
    """A module without docstrings and comments."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.dump(tree)


if __name__ == "__main__":
    sys.exit(main())
