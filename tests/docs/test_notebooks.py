"""Notebooks of the recipes: of the format, made of their sources as these stand, and running."""

import importlib
import warnings

import matplotlib as mpl
import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("diffusers").utils.logging.set_verbosity_error()

make = importlib.import_module("docs.make_notebook")

mpl.use("agg")


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_run(path):
    notebook = nbformat.read(make.target(path), as_version=4)
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == make.cells(path.read_text())
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers, on what it will remove
        made = make.notebook(path.read_text())
    kept = nbformat.read(make.target(path), as_version=4)
    for now, then in zip(made.cells, kept.cells, strict=True):
        if now.cell_type == "code":  # numbers may differ by a machine's rounding, what comes out does not
            assert [output.output_type for output in now.outputs] == [output.output_type for output in then.outputs]
