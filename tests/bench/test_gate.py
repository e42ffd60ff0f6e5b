"""The gate: no iteration count and no number of bytes of a fixed set of problems gets larger unnoticed."""

import json

import torch

import lds_iter as li
from bench.gate import __main__ as gate
from bench.gate import measure


def test_no_count_and_no_bytes_got_worse():
    """A change that is worth it runs `python -m bench.gate --update`."""
    before = json.loads(gate.FILE.read_text())
    assert gate.worse(measure.measure(), before) == []


def test_the_rows_that_got_worse_are_named():
    before = {"a": 4, "b": 100, "c": 7}
    assert gate.worse({"a": 5, "b": 99, "c": 7, "d": 1}, before) == ["a: 4 before, 5 now"]
    assert gate.worse({"a": 4, "b": 100}, before) == ["c: 7 before, not measured now"]
    assert gate.better({"a": 5, "b": 99, "d": 1}, before) == ["b: 100 before, 99 now", "d: 1, new"]


def test_a_method_that_takes_one_update_more_is_seen(monkeypatch):
    class Slower(li.LDSApproximation):
        """Newton, but for a first update that does nothing."""

        def init(self, guess):
            return 0

        def update(self, lin, carry):
            d, _ = li.Newton().update(lin, None)
            return (torch.zeros_like(d) if carry == 0 else d), carry + 1

    problem = measure.gru(60)
    monkeypatch.setattr(measure, "solves", lambda: {"GRU, Newton": (problem, li.Newton(), {})})
    before = measure.iterations()
    monkeypatch.setattr(measure, "solves", lambda: {"GRU, Newton": (problem, Slower(), {})})
    assert gate.worse(measure.iterations(), before)
