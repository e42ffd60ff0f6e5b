"""The runner of the bench, rooflines, curves, the rows for a GPU: at tiny sizes on the CPU. No test reads a clock."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch
import typer

from bench import __main__ as runner
from bench.common import timing, traffic
from bench.common.pages import keep_of_device
from bench.curves import measure as curves
from bench.curves import page as curves_page
from bench.map import measure as maps
from bench.roofline import measure as roofline
from bench.roofline.page import section as roofline_section

MACHINE = {"device": "d", "threads": 1, "torch": "t", "python": "p"}


def test_a_failure_does_not_stop_the_others_and_is_reported():
    codes = {"a": 0, "b": 3, "c": 0}
    called = []

    def call(arguments):
        called.append(arguments[2])
        return codes[arguments[2]]

    outcomes = runner.run([runner.Comparison(name) for name in codes], "cpu", quick=False, call=call)
    assert called == ["a", "b", "c"]
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    assert outcomes[1].line.startswith("FAILED 3")


def test_comparisons_for_other_devices_and_without_a_quick_form_are_named_not_run():
    comparisons = [
        runner.Comparison("a", devices=("cuda",)),
        runner.Comparison("b"),
        runner.Comparison("c", quick=("-q",)),
    ]
    called = []
    outcomes = runner.run(comparisons, "cpu", quick=True, call=lambda arguments: called.append(arguments[2:]) or 0)
    assert called == [["c", "-q"]]
    assert [outcome.line.split()[0] for outcome in outcomes] == ["not", "not", "done"]
    assert not any(outcome.failed for outcome in outcomes)


def test_the_runner_knows_only_modules_that_exist_and_the_options_that_they_have():
    for comparison in runner.COMPARISONS:
        module = importlib.util.find_spec(comparison.module)
        assert module is not None, comparison
        source = Path(module.origin)
        source = source.with_name("__main__.py") if source.name == "__init__.py" else source
        text = source.read_text()
        for option in (*comparison.full, *(comparison.quick or ())):
            if option.startswith("--"):
                name = option.removeprefix("--").removeprefix("no-")
                assert f"{name.replace('-', '_')}:" in text or f'"--{name}"' in text, (comparison.module, option)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(typer.BadParameter, match=r"bench\.map"):
        runner.main("nothing like this", False)


def test_every_device_keeps_its_section(tmp_path):
    for device in ("b", "a"):
        (tmp_path / device).mkdir()
        (tmp_path / device / "x.json").write_text(json.dumps({"name": device}))
    (tmp_path / "a" / "y.json").write_text("{}")
    page = tmp_path / "x.md"
    page.write_text("before\n<!-- begin: c -->\nold\n<!-- end: c -->\nafter\n")
    kwargs = {"folder": tmp_path / "b", "out": None}
    keep_of_device({"name": "c"}, "x", page, "c", lambda results: f"## {results['name']}\n", **kwargs)
    assert json.loads((tmp_path / "b" / "x.json").read_text()) == {"name": "c"}
    assert page.read_text() == "before\n<!-- begin: c -->\n## a\n\n## c\n<!-- end: c -->\nafter\n"


@pytest.mark.parametrize("cell", [traffic.rnn(8), traffic.gru(8), traffic.lstm(8)], ids=lambda cell: cell.name)
def test_the_counts_are_ordered_as_the_structures_are(cell):
    structures = [traffic.zero, traffic.identity, traffic.diagonal, lambda cell: traffic.blocks(cell, 2), traffic.dense]
    counts = [traffic.iteration(cell, structure(cell)) for structure in structures]
    assert len({count.fused for count in counts}) == 1
    assert all(count.fused < count.staged for count in counts)
    assert sorted(count.staged for count in counts) == [count.staged for count in counts]
    assert sorted(count.operations for count in counts) == [count.operations for count in counts]


def test_the_counts_of_a_quasi_newton_iteration_by_hand():
    count = traffic.iteration(traffic.gru(8), traffic.diagonal(traffic.gru(8)))
    assert count.fused == 8 + 3 * 8 + 8  # the state, three pre-activations; the new state
    step, scan, update = (8 + 24) + (8 + 8), (8 + 8) + 8, (8 + 8) + 8  # reads, then writes
    assert count.staged == step + scan + update
    assert count.special == 24


def test_blocks_as_wide_as_the_state_are_dense_in_memory():
    cell = traffic.gru(6)
    assert traffic.blocks(cell, 6).numbers == traffic.dense(cell).numbers == 36


@pytest.mark.parametrize("case", [roofline.CASES[0], roofline.CASES[3], roofline.CASES[-1]])
def test_a_row_of_the_roofline(case):
    short = dataclasses.replace(case, width=4, length=200)
    machine = roofline.rates("cpu", 1, 1 << 12)
    row = roofline.measure(short, machine, "cpu", 1)
    assert row["fused_mb"] == pytest.approx(4e-6 * 200 * 5 * 4)
    assert min(row["floor_ms"].values()) > 0
    results = {"lds_iter": MACHINE, "rates": vars(machine), "copied_mb": 1.0, "rounds": 1, "rows": [row]}
    assert f"| `{row['method']}` | 4 | 200 | 1 |" in roofline_section(results)


def test_iterations_that_do_not_help_are_not_timed():
    case = dataclasses.replace(roofline.CASES[0], width=4, length=50, few=2, more=2)  # the same solve twice
    with pytest.raises(AssertionError, match="error grew"):
        roofline.per_iteration(case, "cpu", 1)


def test_curves_measure_draw_and_say_what_was_left_out(tmp_path):
    cells = [
        dataclasses.replace(problem, length=length)
        for problem in curves.problems(1_000, "cpu")
        for length in (20, 40)
        if problem.width == 8 and problem.layer is torch.nn.LSTM
    ]
    tables = curves.survey(cells, budget=600, memory=1, rounds=1)
    assert [table["state"] for table in tables] == ["timed"] * 4
    assert {table["state"] for table in curves.survey(cells, 0, 1, 1)} == {"time"}
    left = curves.survey(cells, 600, 0, 1)
    assert {table["state"] for table in left} == {"memory"}
    curves_page.picture(tables, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 10_000
    text = curves_page.section({"lds_iter": MACHINE, "memory": 1, "tables": [*tables, *left[:1]]})
    assert text.count("| LSTM | 8 | 1 |") == 5
    assert "not run: memory" in text


def test_the_curves_reach_a_million_steps_and_leave_out_what_torch_cannot_hold():
    problems = {
        (p.length, p.training): curves.gib(p) for p in curves.problems(curves.LENGTHS[-1], "cpu") if p.width == 8
    }
    assert problems[1_000_000, False] < 6 < problems[1_000_000, True]


def test_what_waits_for_a_device_is_the_run_itself_on_a_cpu():
    def run():
        return 1

    assert timing.waiting(run, "cpu") is run
    assert timing.first_run_on(run, "cpu").result == 1


def test_the_map_and_the_curves_hold_ours_against_the_same_gates():
    problem = curves.problems(1_000, "cpu")[0]
    assert (problem.gate, problem.gradient_gate) == (maps.ERROR, maps.GRADIENT_ERROR)
