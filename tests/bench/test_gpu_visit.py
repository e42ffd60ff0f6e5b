"""The visit to a GPU: its order, its clock, its file, its worker, and every stage on the CPU at tiny size."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer

from bench.edge import sine
from bench.gpu.__main__ import main
from bench.gpu.page import page, report
from bench.gpu.record import Record, outcome
from bench.gpu.runner import InProcess, Worker
from bench.gpu.stages import STAGES, correctness, guide
from bench.gpu.stages.base import NotHere, Stage, Where
from bench.gpu.visit import CUT_OFF, NO_ROWS, NO_TIME, Clock, Visit
from bench.gpu.worker import after, answer

MACHINE = {"device": "d", "torch": "t", "python": "p", "cpu": "c", "threads": 1}
TINY = Where("cpu", tiny=True)


class Hands:
    """A clock that moves when a row runs, by the seconds that the row's name says."""

    def __init__(self):
        self.time, self.done = 0.0, []

    def now(self):
        return self.time

    def run(self, stage, row, seconds):
        self.done.append(f"{stage} {row}")
        self.time += float(row.split()[0])
        return {"state": "failed", "error": "no"} if "bad" in row else {"state": "done", "line": "yes"}

    def close(self):
        pass


def stage(name, seconds, *rows):
    return Stage(name, name, seconds, lambda where: dict.fromkeys(rows, dict))


def visited(record, seconds, *stages):
    hands = Hands()
    Visit(TINY, lambda: hands, record, Clock(seconds, hands.now), lambda line: None).run(stages)
    return hands.done


def test_the_first_row_of_every_stage_comes_first(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)
    a, b = stage("a", 10, "1 x", "1 y"), stage("b", 10, "1 x", "1 y")
    assert visited(record, 20, a, b) == ["a 1 x", "b 1 x", "a 1 y", "b 1 y"]


def test_first_rows_take_a_quarter_of_the_time_and_the_row_at_hand(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)
    a, b, c = stage("a", 10, "1 x", "1 y"), stage("b", 10, "9 x"), stage("c", 10, "1 x")
    assert visited(record, 20, a, b, c) == ["a 1 x", "b 9 x", "a 1 y", "c 1 x"]


def test_a_stage_ends_when_its_share_is_used_up_and_what_is_left_goes_to_those_who_had_none(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)
    a, b = stage("a", 10, "6 x", "6 y", "6 z"), stage("b", 10, "1 x")
    assert visited(record, 24, a, b) == ["a 6 x", "a 6 y", "b 1 x", "a 6 z"]
    assert record.state("a", "6 z") == "done"


def test_rows_without_time_are_written_down_with_the_reason_and_run_by_the_next_visit(tmp_path):
    file = tmp_path / "gpu.json"
    a, b = stage("a", 10, "30 x", "1 y"), stage("b", 10, "1 z bad")
    assert visited(Record(file, MACHINE), 20, a, b) == ["a 30 x"]
    kept = json.loads(file.read_text())["stages"]
    assert kept["a"]["1 y"] == kept["b"]["1 z bad"] == {"state": "skipped", "reason": NO_TIME}
    assert visited(Record(file, MACHINE), 20, a, b) == ["a 1 y", "b 1 z bad"]
    assert visited(Record(file, MACHINE), 20, a, b) == ["b 1 z bad"]  # what failed is tried again, last


class Looking(Hands):
    """Compares the file with what has been done, while a row runs."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def run(self, stage, row, seconds):
        rows = json.loads(self.file.read_text())["stages"]["a"]
        assert [name for name in rows if rows[name]["state"] == "done"] == [name[2:] for name in self.done]
        assert rows[row] == {"state": "failed", "error": CUT_OFF}
        return super().run(stage, row, seconds)


def test_every_row_is_in_the_file_before_the_next_one_runs(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)
    hands = Looking(record.file)
    rows = stage("a", 1, "0 x", "0 y", "0 z")
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), lambda line: None).run([rows])
    assert len(hands.done) == 3
    assert {row["state"] for row in record.stages["a"].values()} == {"done"}


class Leaving(Hands):
    """The visit ends while a row runs."""

    def run(self, stage, row, seconds):
        if row == "1 leaves":
            raise KeyboardInterrupt
        return super().run(stage, row, seconds)


def test_a_row_during_which_the_visit_ended_comes_last_in_the_next_one(tmp_path):
    """It may have taken the machine with it."""
    file, leaving = tmp_path / "gpu.json", Leaving()
    rows = stage("a", 1, "1 leaves", "1 x")
    with pytest.raises(KeyboardInterrupt):
        Visit(TINY, lambda: leaving, Record(file, MACHINE), Clock(9, leaving.now), lambda line: None).run([rows])
    assert json.loads(file.read_text())["stages"]["a"]["1 leaves"]["error"] == CUT_OFF
    assert visited(Record(file, MACHINE), 9, rows) == ["a 1 x", "a 1 leaves"]


class Raising(Hands):
    """No process can be started for one row."""

    def run(self, stage, row, seconds):
        if row == "1 x":
            raise BlockingIOError("no more processes")
        return super().run(stage, row, seconds)


def test_a_runner_that_raises_and_a_stage_without_a_list_cost_themselves_alone(tmp_path):
    record, hands, said = Record(tmp_path / "gpu.json", MACHINE), Raising(), []
    none = Stage("none", "none", 1, lambda where: {}["no such page"])
    stages = none, stage("a", 1, "1 x", "1 y")
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), said.append).run(stages)
    assert hands.done == ["a 1 y"]
    assert outcome(record.stages["a"]["1 x"]) == "failed: BlockingIOError: no more processes"
    assert outcome(record.stages["none"][NO_ROWS]) == "failed: KeyError: 'no such page'"
    assert len(said) == 3


def test_a_disk_that_is_full_costs_the_file_alone(tmp_path, monkeypatch):
    def full(*row):
        raise OSError("No space left on device")

    record, said, hands = Record(tmp_path / "gpu.json", MACHINE), [], Hands()
    monkeypatch.setattr(record, "put", full)
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), said.append).run([stage("a", 1, "1 x", "1 y")])
    assert hands.done == ["a 1 x", "a 1 y"]
    assert any("No space" in line for line in said)
    assert any("a: 1 y: yes" in line for line in said)


def test_stages_whose_rows_run_alone_share_a_process_and_no_other_does(tmp_path):
    """What rows leave behind that run at once, the pages of the guide, does not reach those that are timed."""
    started, closed = [], []

    class Counted(Hands):
        def close(self):
            closed.append(self)

    def start():
        started.append(Counted())
        return started[-1]

    several = Stage("b", "b", 1, lambda where: dict.fromkeys(("0 x", "0 y"), dict), workers=2)
    stages = stage("a", 1, "0 x"), several, stage("c", 1, "0 x"), stage("d", 1, "0 x")
    Visit(TINY, start, Record(tmp_path / "gpu.json", MACHINE), Clock(9, lambda: 0.0), lambda line: None, 2).run(stages)
    assert [hands.done for hands in started if "a 0 x" in hands.done] == [["a 0 x"]]
    assert [hands.done for hands in started if "c 0 x" in hands.done] == [["c 0 x", "d 0 x"]]
    assert set(started) == set(closed)


def test_several_workers_share_the_rows(tmp_path):
    hands = Hands()
    record = Record(tmp_path / "gpu.json", MACHINE)
    rows = Stage("a", "a", 1, lambda where: dict.fromkeys((f"0 {n}" for n in range(9)), dict), workers=3)
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), lambda line: None, workers=8).run([rows])
    assert sorted(hands.done) == [f"a 0 {n}" for n in range(9)]


@pytest.mark.parametrize("other", [{"device": "other"}, {"torch": "other"}], ids=str)
def test_a_file_of_another_device_or_torch_is_left_alone(other, tmp_path):
    Record(tmp_path / "gpu.json", MACHINE).put("a", "x", {"state": "done"})
    with pytest.raises(ValueError, match="`--out`"):
        Record(tmp_path / "gpu.json", MACHINE | other)
    (tmp_path / "gpu.json").write_text("no JSON")
    with pytest.raises(ValueError, match="`--out`"):
        Record(tmp_path / "gpu.json", MACHINE)


def test_the_file_stays_within_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.gpu.record.LARGEST_BYTES", 5_000)
    record = Record(tmp_path / "gpu.json", MACHINE)
    record.put("a", "text", {"state": "failed", "error": "x" * 6_000})
    record.put("a", "figures", {"state": "done", "figures": [1.5] * 2_000})
    assert record.file.stat().st_size < 5_000
    assert "did not fit" in outcome(record.stages["a"]["figures"])


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
    monkeypatch.setattr("bench.gpu.visit.LONGEST_ROW", 20.0)  # a start included, on a machine that is busy
    record = Record(tmp_path / "gpu.json", MACHINE)
    rows = stage("gru", 1, "raises", "dies", "hangs", "works")
    worker = Worker([sys.executable, "-c", BAD_ROWS], tmp_path / "log")
    Visit(TINY, lambda: worker, record, Clock(300), lambda line: None).run([rows])
    kept = json.loads(record.file.read_text())["stages"]["gru"]
    assert outcome(kept["raises"]) == "failed: ValueError: a row that raises"
    assert outcome(kept["dies"]) == "failed: its process ended with -11"
    assert "Segmentation fault" in kept["dies"]["error"]
    assert outcome(kept["hangs"]) == "failed: no end after 20 s; its process was killed"
    assert "in hangs" in kept["hangs"]["error"]  # the log says where it was
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


BARE = """
import importlib.machinery, importlib.metadata, json, re, sys
names, todo = set(), sys.argv[1:]
while todo:  # what these need, they have
    name = todo.pop().lower().replace("_", "-")
    if name not in names:
        names.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [re.match(r"[\\w.-]+", one).group() for one in needed if "extra ==" not in one]
there = importlib.metadata.packages_distributions()
absent = {name for name, of in there.items() if not names & {one.lower().replace("_", "-") for one in of}}
absent.discard("lds_iter")
found = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in absent else found(name, *rest)
)
from bench.gpu.stages import STAGES, rows_of
from bench.gpu.stages.base import Where
from bench.gpu.worker import answer
import bench.gpu.__main__, bench.gpu.page, bench.edge.problems
where = Where("cpu", tiny=True)
rows = {stage.name: list(stage.rows(where)) for stage in STAGES}
solved = answer("correctness", "solve: Newton()", where)["state"]
print(json.dumps([solved, sorted(rows), len(bench.edge.problems.sine(10, 1).inputs), "diffusers" in absent]))
"""

THERE = "torch", "triton", "pytest", "hypothesis", "jax", "typer", "tqdm", "pytorch-lightning", "torchdiffeq"


def test_a_machine_with_few_packages_suffices():
    """All stages say their rows, a solve runs, and the sine wave has its weights, without anything else installed."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, *THERE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    solved, stages, steps, diffusers_absent = json.loads(done.stdout.splitlines()[-1])
    assert (solved, stages, steps) == ("done", sorted(stage.name for stage in STAGES), 10)
    assert diffusers_absent or importlib.util.find_spec("diffusers") is None


def test_the_weights_of_the_sine_wave_are_read_as_safetensors_reads_them():
    load_file = pytest.importorskip("safetensors.torch").load_file
    found, expected = sine.read_weights(sine.WEIGHTS), load_file(sine.WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


QUICK = "correctness", "gru", "deer", "diffusion"
"""The others take longer, in Triton's interpreter, backwards, or in the loop of the sine wave: see the slow test."""


@pytest.mark.parametrize("one", [stage for stage in STAGES if stage.name in QUICK], ids=lambda stage: stage.name)
def test_the_first_row_of_a_stage_on_the_cpu(one, tmp_path):
    assert_rows(one, list(one.rows(TINY))[:1], tmp_path)


LEFT_OUT = {"guide"}
"""Pages of the guide run in the tests of the documentation."""


@pytest.mark.slow
@pytest.mark.parametrize("one", [stage for stage in STAGES if stage.name not in LEFT_OUT], ids=lambda stage: stage.name)
def test_rows_of_a_stage_on_the_cpu(one, tmp_path):
    """Of those that differ in size alone the first two."""
    names = list(one.rows(TINY))
    assert_rows(one, names if one.name == "correctness" else names[:2], tmp_path)


def assert_rows(one, names, folder):
    record, runner = Record(folder / "gpu.json", MACHINE), InProcess(TINY)
    for name in names:
        found = runner.run(one.name, name, 60)
        assert found["state"] in ("done", "skipped"), found
        record.put(one.name, name, found)
    assert names[0] in report(MACHINE, record.stages)
    assert f"### {one.title}" in page([{"machine": MACHINE, "stages": record.stages}])


def test_before_a_visit_the_page_says_what_it_runs():
    assert page([]).count("\n| ") == len(STAGES) + 1 + 1


def test_without_a_cuda_device_the_command_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.Exit) as stopped:
        main(out=tmp_path, tiny=False, write_page=False)
    assert stopped.value.exit_code == 2
    assert "--tiny" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="correctness, guide"):
        main(out=tmp_path, only="nothing", tiny=True, write_page=False)


@pytest.mark.slow
def test_a_whole_visit_by_workers(monkeypatch, tmp_path):
    """One stage by the command itself: workers, file, log and report."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(minutes=2, only="deer", out=tmp_path, tiny=True, write_page=False)
    assert set(json.loads((tmp_path / "gpu.json").read_text())["stages"]) == {"deer"}
    assert "5 done" in (tmp_path / "gpu.txt").read_text()
    assert list((tmp_path / "gpu-logs").iterdir())
