"""The rows of a visit in processes of their own: whatever becomes of one costs that row alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu.page import report
from bench.gpu.record import Record, outcome
from bench.gpu.runner import Worker
from bench.gpu.stages import correctness, guide
from bench.gpu.stages.base import NotHere, Stage, Where
from bench.gpu.visit import Clock, Visit
from bench.gpu.worker import after, answer

MACHINE = {"device": "d", "torch": "t", "python": "p", "cpu": "c", "threads": 1}
TINY = Where("cpu", tiny=True)


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    row = json.loads(line)["row"]
    if row == "hangs": time.sleep(60)
    if row == "dies": sys.stderr.write("last words"); os._exit(7)
    if row == "is killed": os.kill(os.getpid(), 9)
    if row == "breaks off": print('{"state": "do', end=""); os._exit(0)
    lost = {"device_lost": True} if row == "loses the device" else {}
    print(json.dumps({"state": "done", "pid": os.getpid(), **lost}), flush=True)
"""


def test_a_worker_that_hangs_or_dies_costs_its_row_alone(tmp_path):
    worker = Worker([sys.executable, "-c", WORKER], tmp_path / "log")
    first = worker.run("a", "x", 30)
    assert worker.run("a", "y", 30) == first  # the same process
    assert outcome(worker.run("a", "hangs", 0.2)).startswith("failed: no end after")
    second = worker.run("a", "x", 30)
    assert second["state"] == "done"
    assert second != first
    died = worker.run("a", "dies", 30)
    assert outcome(died) == "failed: its process ended with 7"
    assert "last words" in died["error"]
    assert outcome(worker.run("a", "is killed", 30)) == "failed: its process ended with -9"
    assert outcome(worker.run("a", "breaks off", 30)) == "failed: its process ended with 0"
    lost = worker.run("a", "loses the device", 30)
    assert worker.run("a", "x", 30)["pid"] != lost["pid"]
    worker.close()


def test_a_row_after_which_the_device_does_not_answer_has_failed(monkeypatch):
    """A kernel that wrote where it must not is found out when the host waits for it, which may be after the row."""
    found = after({"state": "done", "line": "1.2 ms", "ms": 1.2}, "CUDA error: an illegal memory access")
    assert outcome(found) == "failed: 1.2 ms; the device was lost: CUDA error: an illegal memory access"
    assert found["ms"] == 1.2

    def broken():
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nFor debugging pass CUDA_LAUNCH_BLOCKING"
        )

    monkeypatch.setattr("bench.gpu.stages.rows_of", lambda stage, where: {"x": broken})
    said = "failed: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert outcome(answer("a", "x", TINY)) == said
    assert outcome(after(answer("a", "x", TINY), "it is")) == f"{said}; the device was lost: it is"


BAD_ROWS = """
import os, sys, time
import bench.gpu.stages, bench.gpu.worker
def raises(): raise ValueError("a row that raises")
def dies(): os.kill(os.getpid(), 11)
def hangs(): time.sleep(60)
rows = {"raises": raises, "dies": dies, "hangs": hangs, "works": dict}
bench.gpu.stages.rows_of = lambda stage, where: rows
bench.gpu.worker.main("cpu", "tiny")
"""


@pytest.mark.slow
def test_rows_that_raise_die_or_hang_leave_the_others_and_a_whole_report(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.gpu.visit.LONGEST_ROW", 12.0)  # a start included, on a machine that is busy
    record = Record(tmp_path / "gpu.json", MACHINE)
    rows = Stage("gru", "?", 1, lambda where: dict.fromkeys(("raises", "dies", "hangs", "works"), dict))
    worker = Worker([sys.executable, "-c", BAD_ROWS], tmp_path / "log")
    Visit(TINY, lambda: worker, record, Clock(300), lambda line: None).run([rows])
    kept = json.loads(record.file.read_text())["stages"]["gru"]
    assert outcome(kept["raises"]) == "failed: ValueError: a row that raises"
    assert outcome(kept["dies"]) == "failed: its process ended with -11"
    assert "Segmentation fault" in kept["dies"]["error"]
    assert outcome(kept["hangs"]) == "failed: no end after 12 s; its process was killed"
    assert "in hangs" in kept["hangs"]["error"]  # the log says where it was
    assert "Segmentation fault" not in kept["hangs"]["error"]  # that was the row before
    assert kept["works"]["state"] == "done"
    assert "4 rows: 3 failed, 1 done" in report(MACHINE, record.stages)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker sees that its input ended, after its row")
@pytest.mark.slow
def test_a_visit_that_is_killed_takes_its_workers_along(tmp_path):
    """One that hangs would keep the device from the next visit."""
    code = (
        "import sys; from pathlib import Path; from bench.gpu.runner import Worker; "
        f"worker = Worker([sys.executable, '-c', {BAD_ROWS!r}], Path({str(tmp_path / 'log')!r})); "
        "worker.run('a', 'works', 60); print(worker.process.pid, flush=True); worker.run('a', 'hangs', 60)"
    )
    visit = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(visit.stdout.readline())
    assert alive(pid)
    visit.kill()
    visit.wait()
    visit.stdout.close()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the worker is still there")


def alive(pid):
    """Whether it runs, and does not only wait for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_file_of_the_librarys_tests_is_counted_as_far_as_it_got():
    assert correctness.tested("tests/test_trust.py", 60)["line"].endswith("passed, 0 failed")
    with pytest.raises(AssertionError, match=r"0 passed, 0 failed, stopped after 0\.01 s"):
        correctness.tested("tests/test_trust.py", 0.01)


def test_what_a_row_raises_is_its_outcome(monkeypatch):
    def absent():
        raise NotHere("needs more memory")

    def lacking():
        raise ModuleNotFoundError("No module named 'x.y'", name="x.y")

    def broken():
        raise ModuleNotFoundError("No module named 'lds_iter.y'", name="lds_iter.y")

    def wrong():
        raise AssertionError("an error of 1 is not within 0")

    monkeypatch.setattr(
        "bench.gpu.stages.rows_of",
        lambda stage, where: {"absent": absent, "lacking": lacking, "broken": broken, "wrong": wrong},
    )
    assert answer("a", "absent", TINY) == {"state": "skipped", "reason": "needs more memory"}
    assert outcome(answer("a", "lacking", TINY)) == "skipped: needs x.y, which is not installed"
    assert outcome(answer("a", "broken", TINY)) == "failed: No module named 'lds_iter.y'"
    assert outcome(answer("a", "wrong", TINY)) == "failed: AssertionError: an error of 1 is not within 0"


def test_rows_run_without_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    rows = {"x": lambda: seen.append(torch.backends.cudnn.allow_tf32) or {}}
    monkeypatch.setattr("bench.gpu.stages.rows_of", lambda stage, where: rows)
    assert answer("a", "x", TINY)["state"] == "done"
    assert seen == [False]


def test_a_page_of_the_guide_runs_on_the_device_and_says_what_it_lacks(tmp_path):
    text = tmp_path / "page.md"
    text.write_text("```python\nimport torch\nprint(torch.zeros(2).sum())\n# prints: tensor(...)\n```\n")
    assert guide.run(TINY, text)["printed_otherwise"] == 0
    text.write_text("```python\nprint(1)\n# prints: 2\n```\n")
    assert guide.run(TINY, text)["printed_otherwise"] == 1
    text.write_text("```python\nimport nothing_of_this_name\n```\n")
    with pytest.raises(ModuleNotFoundError):
        guide.run(TINY, text)
    assert "README.md" in guide.rows(TINY)
