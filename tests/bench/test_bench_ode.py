"""The bench of differential equations: what is left out says why, a run goes on where it ended, the page follows."""

import pytest
import torch

from bench.ode.cases import Case, VanDerPol, cases
from bench.ode.measure import Row, Skipped, Watch, measure
from bench.ode.methods import ENTRIES, parallel_ode
from bench.ode.page import section

CASE = Case("van der Pol", VanDerPol(), 10, 200)


def test_every_case_and_solver_is_measured_or_left_out_with_a_reason():
    for case in cases(1_000_000):
        for entry in ENTRIES:
            for back in (False, True):
                assert entry.left_out(case, back=back) != ""


def test_what_is_done_is_not_measured_again_and_time_may_be_up():
    assert list(measure([CASE], {CASE.key: {}}, Watch(1))) == []
    late = list(measure([CASE], {}, Watch(0)))
    assert late == [[Skipped(CASE.key, "all", "time was up; run the command again")]]


def test_the_peers_solve_the_same_steps():
    exact = CASE.reference()
    with torch.no_grad():
        found = {entry.name: entry.solve(CASE.func, CASE.start(), CASE.times()) for entry in ENTRIES[:1] + ENTRIES[2:3]}
        found["parallel-ode"] = parallel_ode(CASE.func, CASE.start(), CASE.times())
    errors = {name: float((states - exact).abs().max()) for name, states in found.items()}
    assert errors["lds_iter, rk4"] < 1e-4  # order 4, h = 1/20
    for error in errors.values():
        assert error == pytest.approx(errors["lds_iter, rk4"], rel=1e-3)


def test_the_page_says_how_many_times_faster_and_what_is_missing():
    ours = Row("c", "van der Pol", 10, 1, "lds_iter, rk4", 2.0, 4.0, 1.0, 1e-6, 1)
    theirs = Row("c", "van der Pol", 10, 1, "torchdiffeq, rk4", 20.0, 80.0, None, 1e-6, None)
    text = section({
        "device": "a machine", "threads": 2, "torch": "2", "rows": [vars(ours), vars(theirs)],
        "skipped": [vars(Skipped("c", "torchode", "it takes minutes"))],
    })  # fmt: skip
    assert "c: 10, 20 with gradients" in text
    assert "- c, torchode: it takes minutes." in text
