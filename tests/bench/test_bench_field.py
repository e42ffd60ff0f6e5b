"""The page on the field's recipes says what the figures say, and a run of one case makes a row."""

import json

import torch

import lds_iter as li
from bench.common.problems import Problem
from bench.field import cases, measure
from bench.field.__main__ import JSON, PAGE, TIMES
from bench.field.page import cells, section, time_cells, times_section


def test_the_page_is_made_from_the_figures():
    results, page = json.loads(JSON.read_text()), PAGE.read_text()
    for part in cases.PARTS:
        assert section(results, part).strip() in page
    assert {row["part"] for row in results["rows"]} == set(cases.PARTS)
    if TIMES.exists():
        assert times_section(json.loads(TIMES.read_text())).strip() in page


def test_a_row_of_a_case(monkeypatch):
    problem = Problem(lambda s, u: torch.sin(s) + u, torch.zeros(2), torch.randn(50, 2))
    case = cases.Case("tiny", "sine", lambda: problem, ((li.Newton(), None), (li.Picard(), 5)), "none", most=50)
    monkeypatch.setitem(cases.PARTS, "tiny", lambda: iter([case]))
    newton, picard = measure.measure("tiny")
    assert (newton.steps, newton.method, picard.method) == (50, "Newton()", "Picard(), window 5")
    assert newton.iterations is not None
    assert newton.error < 1e-4  # residuals of 1e-6, amplified little
    assert cells(newton.__dict__)[0] == "sine"
    timed = list(measure.times("tiny", rounds=1))
    assert [row.method for row in timed] == [newton.method, picard.method]
    assert time_cells(timed[0].__dict__)[3] == str(newton.iterations)
