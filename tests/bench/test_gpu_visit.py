"""The visit to a GPU: its order, its clock, its file, its worker, and every stage on the CPU at tiny size."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
import typer

from bench.edge import sine
from bench.gpu.__main__ import main
from bench.gpu.page import page, report
from bench.gpu.record import Record, outcome
from bench.gpu.stages import STAGES, guide
from bench.gpu.stages.base import NotHere, Stage, Where
from bench.gpu.visit import NO_TIME, Clock, Visit
from bench.gpu.worker import InProcess, Worker, answer

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


def test_a_stage_ends_when_its_share_is_used_up_and_what_is_left_goes_to_those_who_had_none(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)
    a, b = stage("a", 10, "6 x", "6 y", "6 z"), stage("b", 10, "1 x")
    assert visited(record, 20, a, b) == ["a 6 x", "a 6 y", "b 1 x", "a 6 z"]
    assert record.state("a", "6 z") == "done"


def test_rows_without_time_are_written_down_with_the_reason_and_run_by_the_next_visit(tmp_path):
    file = tmp_path / "gpu.json"
    a, b = stage("a", 10, "30 x", "1 y"), stage("b", 10, "1 z bad")
    assert visited(Record(file, MACHINE), 20, a, b) == ["a 30 x"]
    kept = json.loads(file.read_text())["stages"]
    assert kept["a"]["1 y"] == kept["b"]["1 z bad"] == {"state": "skipped", "reason": NO_TIME}
    assert visited(Record(file, MACHINE), 20, a, b) == ["a 1 y", "b 1 z bad"]
    assert visited(Record(file, MACHINE), 20, a, b) == ["b 1 z bad"]  # what failed is tried again, last


def test_every_row_is_in_the_file_before_the_next_one_runs(tmp_path):
    record = Record(tmp_path / "gpu.json", MACHINE)

    class Looking(Hands):
        def run(self, stage, row, seconds):
            known = json.loads(record.file.read_text())["stages"]["a"] if record.file.exists() else {}
            assert len(known) == len(self.done)
            return super().run(stage, row, seconds)

    hands = Looking()
    rows = stage("a", 1, "0 x", "0 y", "0 z")
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), lambda line: None).run([rows])
    assert len(hands.done) == 3


def test_several_workers_share_the_rows(tmp_path):
    hands = Hands()
    record = Record(tmp_path / "gpu.json", MACHINE)
    rows = Stage("a", "a", 1, lambda where: dict.fromkeys((f"0 {n}" for n in range(9)), dict), workers=3)
    Visit(TINY, lambda: hands, record, Clock(9, hands.now), lambda line: None, workers=8).run([rows])
    assert sorted(hands.done) == [f"a 0 {n}" for n in range(9)]


def test_a_file_of_another_device_is_left_alone(tmp_path):
    Record(tmp_path / "gpu.json", MACHINE).put("a", "x", {"state": "done"})
    with pytest.raises(ValueError, match="`--out`"):
        Record(tmp_path / "gpu.json", MACHINE | {"device": "other"})


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
    print(json.dumps({"state": "done", "pid": os.getpid()}), flush=True)
"""


def test_a_worker_that_hangs_or_dies_costs_its_row_alone(tmp_path):
    worker = Worker([sys.executable, "-c", WORKER], tmp_path / "log")
    first = worker.run("a", "x", 30)
    assert worker.run("a", "y", 30) == first  # the same process
    assert "no end after" in worker.run("a", "hangs", 0.2)["error"]
    second = worker.run("a", "x", 30)
    assert second["state"] == "done"
    assert second != first
    died = worker.run("a", "dies", 30)["error"]
    assert "ended with 7" in died
    assert "last words" in died
    assert worker.run("a", "x", 30)["state"] == "done"
    worker.close()


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
    assert "3 done" in (tmp_path / "gpu.txt").read_text()
