"""Hold many random cases to the laws: `python tests/contract/fuzz --cases 100000 --processes 2`.

Writes `result.json` beside itself as it goes on, and begins where that stopped with `--resume`. `--repeat SEED` runs
one case again and says what it breaks.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from fuzz.running import Outcome, one_thread, run_chunk, run_seed  # noqa: E402

RESULT = Path(__file__).with_name("result.json")
CHUNK = 50
"""Seeds that a process takes at a time."""

SHOWN = 50
"""Failures that are kept in words."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no more cases after so long")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="run one case and report")
    parser.add_argument("--resume", action="store_true", help="go on after the last case of the result")
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
    begin = time.monotonic()
    first, end = options.seed + tally["cases"], options.seed + options.cases
    chunks = [range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
    with get_context("spawn").Pool(options.processes, initializer=one_thread) as pool:
        for outcomes in pool.imap(run_chunk, chunks):
            for outcome in outcomes:
                _count(tally, outcome)
            minutes = (time.monotonic() - begin) / 60
            _write(options.result, tally)
            done = f"{tally['cases']} of {options.cases} cases, {sum(tally['failures by law'].values())} failures"
            print(f"\r{done}, {minutes:.1f} minutes", end="", flush=True)
            if minutes > options.minutes:
                pool.terminate()
                break
    print()
    return int(bool(tally["failures by law"]))


def _tally(options: argparse.Namespace) -> dict:
    """What has been counted so far: nothing, or the result of a run of the same seeds that was cut off."""
    tally = {
        "first seed": options.seed,
        "cases": 0,
        "cases by kind": {},
        "failures by law": {},
        "remarks": {},
        "failures": [],
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "processes": options.processes},
    }
    if not options.resume or not options.result.exists():
        return tally
    before = json.loads(options.result.read_text())
    if before["first seed"] != options.seed or before["commit"] != tally["commit"]:
        sys.exit(f"{options.result} is of another first seed or commit; run without --resume.")
    return before


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
        print(f"\n{outcome}\n    again: python tests/contract/fuzz --repeat {outcome.seed}", flush=True)
        if len(tally["failures"]) < SHOWN:
            tally["failures"].append(str(outcome))


def _write(path: Path, tally: dict) -> None:
    path.write_text(json.dumps(tally, indent=2) + "\n")


def _commit() -> str:
    """The commit, with a plus where the working tree differs from it in the library."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "lds_iter"], capture_output=True, text=True, check=False)
    return head + ("+" if changed.stdout.strip() else "")


if __name__ == "__main__":
    sys.exit(main())
