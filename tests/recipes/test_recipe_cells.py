"""Cells that state their structure: against their loops over time, and the command line."""

import re

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from lds_iter.testing import check_derivatives
from recipes.cells.__main__ import app
from recipes.cells.cells import CELLS, SLSTM, MinimalGatedUnit
from recipes.cells.training import one_by_one
from recipes.pretrained.networks import AssetMissing, asset

MOST = {"leaky": 8, "paragru": 7, "paralstm": 8, "slstm": 8, "mgu": 6, "delta": 7}
"""Iterations to 1e-10 counted for 600 steps of noise, and up to two more for other roundings."""


def made(name, units=5):
    torch.manual_seed(0)
    return CELLS[name][0](3, units).double()


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_of_a_cell_is_its_loop_with_the_same_gradients(name):
    cell, x = made(name), torch.randn(200, 2, 3, dtype=torch.float64)
    layer = li.nn.Recurrent(cell, method=li.Newton(), rtol=1e-10, atol=1e-10)
    found, exact = layer(x)[0], one_by_one(cell, x)
    assert layer.last_solution is not None
    assert layer.last_solution.converged
    assert int(layer.last_solution.iterations.max()) <= MOST[name]
    # residuals below 1e-10, and states that are of size 1 and forget within some dozens of steps
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)
    weights = list(cell.parameters())
    for one, other in zip(*(torch.autograd.grad(s.square().sum(), weights) for s in (found, exact)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(CELLS) - {"mgu"}))
def test_the_structure_that_a_cell_states_is_that_of_its_jacobian(name):
    cell, x = made(name), torch.randn(6, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        u = cell.inputs(x)
        check_derivatives(cell, torch.randn(6, 2, cell.hidden_size, dtype=torch.float64), u)


def test_a_wider_cell_takes_as_many_iterations_and_no_full_matrices(monkeypatch):
    monkeypatch.setattr(li.Linearization, "jacobian", None)
    cell, x = made("delta", 512), torch.randn(50, 1, 3, dtype=torch.float64)
    layer = li.nn.Recurrent(cell, method=li.Newton())
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], one_by_one(cell, x), rtol=1e-5, atol=1e-5)


def test_the_coordinates_of_the_slstm_are_those_of_the_paper():
    """Cell, normalizer and running maximum, from `c = m = 0, n = 1`."""
    cell, x = made("slstm"), torch.randn(60, 2, 3, dtype=torch.float64)
    assert isinstance(cell, SLSTM)
    c = m = h = torch.zeros(2, 5, dtype=torch.float64)
    n, expected = torch.ones_like(c), []
    with torch.no_grad():
        for u_i, u_f, u_z, u_o in (gates.chunk(4, -1) for gates in cell.inputs(x)):
            a_i, a_f, a_z, a_o = cell.own
            write, keep = a_i * h + u_i, torch.nn.functional.logsigmoid(a_f * h + u_f + 2)
            largest = torch.maximum(keep + m, write)
            i, f = torch.exp(write - largest), torch.exp(keep + m - largest)
            c, n, m = f * c + i * torch.tanh(a_z * h + u_z), f * n + i, largest
            h = torch.sigmoid(a_o * h + u_o) * c / n
            expected.append(h)
        found = li.nn.Recurrent(cell, method=li.Newton(), rtol=1e-12, atol=1e-12)(x)[0][..., 2::3]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_cell_in_the_convention_of_torch_needs_no_structure():
    cell, x = made("mgu"), torch.randn(30, 2, 3, dtype=torch.float64)
    assert isinstance(cell, MinimalGatedUnit)
    assert not hasattr(cell, "linearize")
    assert li.nn.Recurrent(cell)(x)[0].shape == (30, 2, 5)


def test_command_line(tmp_path):
    try:
        asset("bokeh-sampledata", "_data/CGM.csv.gz")
    except AssetMissing:
        pytest.skip("the data come with bokeh-sampledata")
    arguments = ["--length", "40", "--crops", "2", "--units", "2", "--steps", "2", "--out", str(tmp_path)]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("yes, ") == len(CELLS)
    assert (tmp_path / "cells.svg").exists()
    wrong = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["--cell", "gru"])
    assert wrong.exit_code == 2
    assert f"must be one of {', '.join(CELLS)}, got gru" in " ".join(re.sub("[│╭╮╰╯─]", "", wrong.output).split())
