"""The stages of a visit: with few packages, on the CPU at tiny size, and by the command itself."""

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
from bench.gpu.record import Record
from bench.gpu.runner import InProcess
from bench.gpu.stages import STAGES
from bench.gpu.stages.base import Where

MACHINE = {"device": "d", "torch": "t", "python": "p", "cpu": "c", "threads": 1}
TINY = Where("cpu", tiny=True)


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
