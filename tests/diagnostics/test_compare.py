"""`li.compare`: what the table says is what the solves say."""

import pytest
import torch
from catalogue import elementwise, loop, tanh_rnn
from problems import problem

import lds_iter as li

METHODS = [li.Newton(), li.QuasiNewton(), li.Jacobi()]


def test_the_rows_are_the_solves():
    f, (s0, u) = tanh_rnn(4), problem(60, (2, 2))
    found = li.compare(f, s0, u, METHODS, window=30)
    for method, row in zip(METHODS, found.methods, strict=True):
        alone = li.solve(f, s0, u, method, window=30)
        assert row.name == repr(method)
        assert torch.equal(row.solution.states, alone.states)
        assert torch.equal(row.solution.iterations, alone.iterations)
        torch.testing.assert_close(row.error, (alone.states - loop(f, s0, u)).abs().amax((0, -1)), rtol=0, atol=1e-12)
        assert row.errors.shape == (60, 2, 2)
        assert row.seconds > 0
    assert found.iterations == {repr(m): int(li.solve(f, s0, u, m, window=30).iterations.max()) for m in METHODS}


def test_the_table_has_a_row_for_each_method_and_one_for_the_loop():
    f, (s0, u) = tanh_rnn(4), problem(40, (3,))
    found = li.compare(f, s0, u, {"newton": li.Newton(), "short": li.Switch(li.Jacobi(), li.Newton(), li.Below(0.1))})
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["method", "newton", "short", "loop"]
    assert len({len(line) for line in lines}) == 1
    assert f" {int(found['newton'].solution.iterations.max())} " in lines[1]
    assert found._repr_html_().count("<tr>") == 4
    tables = found.by_element().split("\n\n")
    assert len(tables) == 3
    for i, table in enumerate(tables):
        assert table.startswith(f"sequence {i}\n")
        assert f" {int(found['newton'].solution.iterations[i])} " in table.splitlines()[2]


def test_what_does_not_converge_is_a_row_and_no_error():
    f, (s0, u) = tanh_rnn(4), problem(40)
    found = li.compare(f, s0, u, METHODS, max_iters=9)
    assert "MAX_ITERS" in found.table().splitlines()[3]
    assert "Jacobi()" not in found.iterations
    assert float(found["Jacobi()"].error) > 1e-9


def test_guesses_may_be_part_of_a_scheme():
    s0, u = problem(40)
    truth = li.sequential(elementwise, s0, u)
    found = li.compare(elementwise, s0, u, {"cold": li.Jacobi(), "warm": li.Jacobi()}, guess={"warm": truth})
    assert found.iterations["warm"] == 0 < found.iterations["cold"]


def test_wrong_arguments():
    arguments = (elementwise, *problem(10))
    for methods, error, message in (
        ([], TypeError, "`methods` must be a list"),
        (li.Newton(), TypeError, "`methods` must be a list"),
        ([li.Newton], TypeError, r"Type `Newton\(\)`"),
        ([li.Newton(), li.Newton()], ValueError, "has one method twice"),
    ):
        with pytest.raises(error, match=message):
            li.compare(*arguments, methods)
    with pytest.raises(ValueError, match="`repeats` must be a whole number, 1 or more, got 0"):
        li.compare(*arguments, METHODS, repeats=0)
    with pytest.raises(ValueError, match=r"`guess` names \['x'\]"):
        li.compare(*arguments, METHODS, guess={"x": li.step_from_zero})
    with pytest.raises(KeyError, match="was compared"):
        li.compare(*arguments, METHODS)["Picard()"]


def test_the_picture():
    pytest.importorskip("matplotlib")
    f, (s0, u) = tanh_rnn(4), problem(40, (2,))
    found = li.compare(f, s0, u, METHODS, window=20)
    figure = li.diagnostics.comparison_picture(found, 1)
    over, within, errors = figure.axes
    assert [text.get_text() for text in over.get_legend().get_texts()] == [repr(method) for method in METHODS]
    for axes, row in zip(over.lines, found.methods, strict=True):
        assert len(axes.get_ydata()) == len(row.solution.history.residual)
    assert len(within.lines) == len(errors.lines) == 3
    with pytest.raises(ValueError, match="`sequence` must be a whole number from 0 to 1"):
        li.diagnostics.comparison_picture(found, 2)
