"""The notebooks: of the format, made of their sources as these stand, running, and shown in the guide."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("diffusers").utils.logging.set_verbosity_error()

make = importlib.import_module("docs.make_notebook")
pages = importlib.import_module("docs.notebook_pages")

ROOT = Path(__file__).parents[2]
KEPT = {source.stem: nbformat.read(source.with_suffix(".ipynb"), as_version=4) for source in make.SOURCES}


def kinds(notebook):
    return [[output.output_type for output in cell.get("outputs", ())] for cell in notebook.cells]


def test_there_are_three():
    assert set(KEPT) == {"diffusion", "gru", "method"}


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source(path):
    notebook = KEPT[path.stem]
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == make.cells(make.read(path))
    assert {kind for cell in kinds(notebook) for kind in cell} == {"stream", "display_data"}


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers, on what it will remove
        made = make.notebook(make.read(path))
    # Numbers may differ by a machine's rounding, what comes out does not; nor do the verdicts that are printed.
    assert kinds(made) == kinds(KEPT[path.stem])
    printed = "".join(output.text for cell in made.cells for output in cell.get("outputs", ()) if "text" in output)
    assert "False" not in printed


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_the_guide_shows_a_notebook(path):
    page, pictures = pages.rendered(path.with_suffix(".ipynb"), "https://github.com/someone/something")
    badge = f"https://colab.research.google.com/github/someone/something/blob/main/docs/notebooks/{path.stem}.ipynb"
    assert badge in page
    for kind, text in make.cells(make.read(path))[1:]:
        assert text.strip() in page, kind
    drawn = sum(kind == "display_data" for cell in kinds(KEPT[path.stem]) for kind in cell)
    assert len(pictures) == 2 * drawn == 2 * page.count(".svg#both")
    assert all(svg.startswith("<?xml") for svg in pictures.values())
    assert f"notebooks/{path.stem}.md\n" in (ROOT / "mkdocs.yml").read_text()


def test_the_builder_of_the_guide_reads_its_hooks_from_anywhere(tmp_path):
    """It has no root of the repository on its path."""
    hooks = (ROOT / "docs" / name for name in ("hooks.py", "notebook_pages.py"))
    for hook in hooks:
        code = f"import runpy; runpy.run_path({str(hook)!r})"
        subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
