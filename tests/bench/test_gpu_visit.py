"""The visit to a GPU: its order, its clock, its file."""

import json

import pytest

from bench.gpu.record import Record, outcome
from bench.gpu.stages.base import Stage, Where
from bench.gpu.visit import CUT_OFF, NO_ROWS, NO_TIME, Clock, Visit

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
    a, b = stage("a", 10, "8 x", "8 y", "8 z"), stage("b", 10, "1 x")
    assert visited(record, 24, a, b) == ["a 8 x", "a 8 y", "b 1 x", "a 8 z"]
    assert record.state("a", "8 z") == "done"


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
