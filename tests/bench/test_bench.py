"""The benchmarks' own logic: gates, budgets, what they count as memory, pages. No test reads a clock."""

import json
import sys

import pytest
import torch

import lds_iter as li
from bench.common import pages, timing
from bench.gradients import measure as gradients
from bench.map import measure as maps
from bench.map import page as map_page
from bench.pararnn import cells as pararnn_cells
from bench.pararnn import measure as peer
from bench.pararnn import page as pararnn_page


@pytest.fixture(scope="module")
def pararnn():
    return pararnn_cells.load()


def cells(length=60, widths=(2, 16)):
    return [maps.Cell(length, width, 1, training) for width in widths for training in (False, True)]


def test_the_map_measures_every_cell_and_draws_itself(tmp_path):
    rows = maps.survey(cells(), budget=60, memory=1)
    assert [row["state"] for row in rows] == ["timed"] * 4
    for row in rows:
        assert row["error"] < maps.ERROR
        assert row["route"] in ("steps", "kernel")  # without a compiler the peer's own kernel
        assert row["training"] == (row["gradient_error"] is not None)
        assert row["ratio"] == row["peer_ms"] / row["ours_ms"]
    results = {
        "lds_iter": {"cpu": "c", "threads": 1, "torch": "t", "python": "p"}, "long": 1,
        "gate": maps.ERROR, "gradient_gate": maps.GRADIENT_ERROR, "seconds": 60.0,
        "cells": json.loads(json.dumps([*rows, {**rows[0], "T": 61, "state": "not run: time"}])),
    }  # fmt: skip
    del results["cells"][-1]["ratio"]
    map_page.picture(results, tmp_path / "map.svg", training=False)
    assert (tmp_path / "map.svg").stat().st_size > 10_000
    section = map_page.section(results)
    assert "4 of 5 cells were timed" in section
    assert "1 not run: time" in section
    assert section.count("| 60 | 16 |") == 2


def test_the_map_leaves_out_what_exceeds_time_or_memory():
    assert {row["state"] for row in maps.survey(cells(), budget=0, memory=1)} == {"not run: time"}
    assert {row["state"] for row in maps.survey(cells(), budget=60, memory=0)} == {"not run: memory"}


def test_a_cell_that_fails_the_gate_gets_no_time(monkeypatch):
    monkeypatch.setattr(maps, "ERROR", 0.0)
    row = maps.measure(maps.Cell(60, 16, 1, False))
    assert row["state"] == "failed the gate"
    assert "ratio" not in row


def test_the_gate_refuses_nan_and_wrong_gradients():
    assert maps.passes((1e-6, 1e-6))
    assert not maps.passes((float("nan"), 0.0))
    assert not maps.passes((0.0, float("nan")))
    right, wrong = (torch.ones(3), torch.ones(2)), (torch.ones(3), 1.01 * torch.ones(2))
    assert maps.passes(maps.errors(right, right))
    assert not maps.passes(maps.errors(wrong, right))


def test_a_run_that_takes_long_is_not_repeated():
    calls = {"short": 0, "long": 0}

    def count(name):
        calls[name] += 1

    runs = {name: lambda name=name: count(name) for name in calls}
    found = timing.alternately(runs, {"short": 0.01, "long": 9.0}, 4)
    assert calls == {"short": 4, "long": 0}
    assert found["long"] == timing.Timing(9000.0, 1)
    assert found["short"].rounds == 4


def test_peak_memory_is_that_of_the_run():
    first = timing.first_run(lambda: torch.ones(1 << 24).sum().item())
    assert first.result == 1 << 24
    if first.peak_mib is not None:  # 64 MiB of numbers, and a page or two of anything else
        assert 60 < first.peak_mib < 80
        small = timing.first_run(lambda: torch.ones(1 << 10).sum().item())
        assert small.peak_mib is not None
        assert small.peak_mib < 8


def test_a_section_goes_between_its_marks():
    page = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nb\n"
    assert pages.between(page, "x", "new\n") == "a\n<!-- begin: x -->\nnew\n<!-- end: x -->\nb\n"
    with pytest.raises(ValueError, match="each once"):
        pages.between(page, "y", "new")


def test_figures_and_their_page_are_kept_in_folders_that_did_not_exist(tmp_path):
    file, page = tmp_path / "a" / "x.json", tmp_path / "b" / "x.md"
    pages.keep({"ms": [1.5]}, file, page, "| 1.5 |\n")
    assert json.loads(file.read_text()) == {"ms": [1.5]}
    assert page.read_text() == "| 1.5 |\n"
    pages.keep([2], file)
    assert json.loads(file.read_text()) == [2]
    assert page.read_text() == "| 1.5 |\n"


def test_the_diagonal_adjoint_is_wrong_and_ours_is_not():
    diagonal, ours, iterations, adjoint_iterations = gradients.measure(8, 200, 0)
    assert diagonal > 0.05
    assert ours < gradients.GATE
    assert 1 < adjoint_iterations < 30
    assert 1 < iterations < 30


def test_the_gradient_gate_refuses(monkeypatch):
    monkeypatch.setattr(gradients, "GATE", 0.0)
    with pytest.raises(AssertionError, match="not below"):
        gradients.measure(4, 50, 0)


def test_pararnn_is_imported_without_leaving_a_false_triton(pararnn):
    assert pararnn.NewtonConfig().max_iters == 3
    triton = sys.modules.get("triton")
    assert triton is None or not isinstance(triton, pararnn_cells._Placeholder)


@pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM", "ParaSLSTM"])
def test_the_derivatives_of_a_cell_are_those_of_its_step(pararnn, name):
    cell = getattr(pararnn, name)(3, 4, dtype=torch.float64)
    f = pararnn_cells.CellRecurrence(cell)
    s = torch.rand(5, 2, 4 * f.slots, dtype=torch.float64)
    u = f.inputs(torch.randn(5, 2, 3, dtype=torch.float64))
    ours, exact = f.linearize(s, u), li.FunctionDerivatives(f, s, u)
    v = torch.randn_like(s)
    torch.testing.assert_close(ours.value, exact.value)
    torch.testing.assert_close(ours.jvp(v), exact.jvp(v))
    torch.testing.assert_close(ours.vjp(v), exact.vjp(v))
    torch.testing.assert_close(ours.jacobian(), exact.jacobian())
    torch.testing.assert_close(ours.diagonal(), exact.diagonal())
    torch.testing.assert_close(ours.block_diagonal(f.slots), exact.block_diagonal(f.slots))


@pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM", "ParaSLSTM"])
def test_the_loop_is_that_of_pararnn(pararnn, name):
    cell, x = getattr(pararnn, name)(3, 4), torch.randn(20, 2, 3)
    theirs = pararnn.sequential_apply(cell, x.transpose(0, 1)).transpose(0, 1)
    found = pararnn_cells.loop(cell, x)
    torch.testing.assert_close(found, theirs if theirs.ndim == 3 else pararnn_cells.pack(theirs))


def test_para_gru_is_a_torch_gru(pararnn):
    cell, x = pararnn.ParaGRU(3, 5), torch.randn(2, 40, 3)
    expected = pararnn.sequential_apply(cell, x)
    # float32, a contracting cell, 40 steps: rounding alone.
    torch.testing.assert_close(pararnn_cells.as_torch_gru(cell)(x.transpose(0, 1))[0].transpose(0, 1), expected)


@pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM", "ParaSLSTM", "GRU"])
@pytest.mark.parametrize("training", [False, True])
def test_a_row_beside_pararnn(pararnn, name, training):
    row = peer.measure(peer.Case(name, 4, 60, 1, training), pararnn, rounds=1)
    assert max(row["residual"].values()) <= peer.RESIDUAL
    assert row["backend"] == "eager"
    assert 1 <= row["updates"]["pararnn"] <= 10
    assert ("torch.nn.GRU" in row["ms"]) == name.endswith("GRU")
    assert f"| `{name}` | 4 | 60 | 1 |" in pararnn_page.table([row])
    assert f"| `{name}` | 4 | 60 | 1 |" in pararnn_page.memory([row])
