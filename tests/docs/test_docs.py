"""The documentation runs: every block of Python in README.md and docs/, and every example in a docstring.

The blocks of a page run in order, in one namespace. What a block prints must be what its `# prints:` comments say, line
by line, where `...` stands for anything. The numbers of a block after `<!-- numbers within 30 %: reason -->` are of one
real run, and may differ by so much. A block after `<!-- not run: reason -->` is left out.
"""

import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import lds_iter as li

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "includes")
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n+)?(?:<!-- numbers within (?P<percent>\d+) %: [^\n]+ -->\n+)?"
    r"```python[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
ENTRY = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
MODULES = [li.__name__, *(module.name for module in pkgutil.walk_packages(li.__path__, "lds_iter."))]


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def same(expected: str, printed: str, percent: str | None) -> bool:
    """Whether a block prints what the page says: to the letter, or with numbers that differ by so many percent."""
    if percent is None:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        return doctest.OutputChecker().check_output(expected, printed, options)
    words = (NUMBER.sub("0", text).split() for text in (expected, printed))
    pairs = zip(numbers(expected), numbers(printed), strict=False)
    return len({tuple(found) for found in words}) == 1 and all(
        abs(a - b) <= int(percent) / 100 * max(abs(a), abs(b)) for a, b in pairs
    )


def test_numbers_are_compared_as_the_page_allows():
    assert same("about 4,000 in 3", "about 4,100 in 3", "5")
    assert not same("about 4,000 in 3", "about 4,900 in 3", "5")
    assert not same("about 4,000 in 3", "exactly 4,000 in 3", "5")
    assert not same("about 4,000", "about 4,100", None)


def run_page(path: Path) -> None:
    text = path.read_text()
    namespace: dict[str, object] = {"__name__": "__main__"}
    for match in BLOCK.finditer(text):
        if match["skip"]:
            continue
        code = match["code"]
        # Blank lines in front, so that a traceback names the line of the page.
        source = "\n" * text[: match.start("code")].count("\n") + code
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(path), "exec"), namespace)
        expected = "".join(line + "\n" for line in PRINTS.findall(code))
        if not same(expected, printed.getvalue(), match["percent"]):
            line = text[: match.start("code")].count("\n") + 1
            pytest.fail(f"{path}:{line}: the block says\n{expected}\nand prints\n{printed.getvalue()}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a page writes, it writes there
    run_page(page)


def test_readme(tmp_path, monkeypatch):
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md")
    monkeypatch.chdir(tmp_path)
    run_page(readme)


def test_the_blocks_are_found():
    assert sum(len(BLOCK.findall(page.read_text())) for page in PAGES) > 20


def test_every_python_block_is_seen():
    for page in PAGES:
        text = page.read_text()
        assert len(BLOCK.findall(text)) == len(re.findall(r"^\s*```+ *python", text, re.MULTILINE)), page


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    found = importlib.util.find_spec(name)
    if "\nimport triton\n" in Path(found.origin).read_text():
        pytest.importorskip("triton", reason="a kernel needs Triton, which is made for Linux")
    module = importlib.import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=options)
    report = io.StringIO()
    for test in finder.find(module, name, module=module, globs={"li": li, "torch": torch}):
        torch.manual_seed(0)
        runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()


def test_docstring_examples_are_found():
    """`solve` is wrapped by a decorator, which must not hide its example."""
    examples = [test for test in doctest.DocTestFinder().find(li.solve, "solve", globs={}) if test.examples]
    assert examples


def public_names() -> list[str]:
    """What lds_iter/__init__.py exports, read from its source; a module stands for the names it exports itself."""
    names: list[str] = []
    for module in (li, li.nn, li.diagnostics, li.depth, li.mcmc, li.testing):
        for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text())):
            if isinstance(node, ast.ImportFrom):
                names += [f"{module.__name__}.{alias.asname or alias.name}" for alias in node.names]
    return [name for name in names if not inspect.ismodule(resolve(name))]


def resolve(path: str) -> object:
    value: object = li
    for part in path.split(".")[1:]:
        value = getattr(value, part)
    return value


def reference_entries() -> list[str]:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    entries = [entry for page in pages for entry in ENTRY.findall(page.read_text())]
    # To the documentation tool `lds_iter.solve` is the module of that name, so the page names the function inside it.
    return ["lds_iter.solve" if entry == "lds_iter.solve.solve" else entry for entry in entries]


@pytest.mark.parametrize("name", public_names())
def test_public_names_are_in_the_reference_once(name):
    assert reference_entries().count(name) == 1


def test_the_reference_names_what_exists():
    importlib.import_module("lds_iter.diagnostics.pictures")  # not imported by the package itself
    entries = reference_entries()
    assert len(entries) == len(set(entries))
    for entry in entries:
        resolve(entry)


LEARN = [page for page in PAGES if page.parent.name in ("learn", "lessons", "howto", "start", "transformers")]
MOST_WORDS = 900
MOST_ROWS = 8


@pytest.mark.parametrize("page", LEARN, ids=lambda page: page.stem)
def test_a_page_to_learn_from_is_short(page):
    """Words outside of code, those of tables included; rows of a table without its head."""
    prose = re.sub(r"```.*?```|<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"\S*\w\S*", prose.replace("|", " "))) <= MOST_WORDS
    assert all(table.count("\n") - 2 <= MOST_ROWS for table in re.findall(r"(?:^\|.*\n)+", prose + "\n", re.MULTILINE))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation


PICTURES = ROOT / "docs" / "pictures"


def test_pictures_are_drawn_for_light_and_for_dark_and_used():
    text = "".join(page.read_text() for page in PAGES)
    kept = {path.name for path in PICTURES.iterdir()}
    dark = {name for name in kept if name.endswith("-dark.svg")}
    light = {name.replace("-dark.svg", ".svg") for name in dark}
    assert kept == light | dark | {"diffusion-film.gif"}
    assert [name for name in light if f"pictures/{name}" not in text] == []


def test_titles_differ():
    titles = [re.search(r"^# (.+)$", page.read_text(), re.MULTILINE) for page in PAGES]
    named = [title[1] for title in titles if title]  # the changelog's stands in the file that it includes
    assert len(set(named)) == len(named) >= len(PAGES) - 1
