"""`Auto` stays small: its lines and its tuned constants, with those of `nn` that choose, may only become fewer."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "lds_iter"

CHOOSES = {
    "_ways.py": ("by_race", "torch_kernel"),
    "_forward.py": ("_way",),
    "_boundary.py": ("torch_is_faster",),
    "suited.py": ("default_auto",),
    "layers.py": ("_chooser",),
    "recurrent.py": ("_chooser",),
}
"""What of `nn` chooses between steps, solves and torch's kernel."""

UNITS = {"ROWS", "STEPS", "ITERATIONS", "RATIO", "NUMBERS", "SEQUENCES", "UNITS", "KEPT", "OCTAVE", "CHECK"}
"""How the name of a tuned constant ends; the last three are counts: kinds, classes of length, steps per check."""


def constants(path):
    """Names of the numbers at the top of a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.UnaryOp):
            numbers = [leaf for leaf in ast.walk(node.value) if isinstance(leaf, ast.Constant)]
            if numbers and all(isinstance(leaf.value, int | float) for leaf in numbers):
                yield from (leaf.id for leaf in ast.walk(node.targets[0]) if isinstance(leaf, ast.Name))


def test_lines():
    lines = sum(len(path.read_text().splitlines()) for path in (PACKAGE / "auto").glob("*.py"))
    for name, functions in CHOOSES.items():
        text = (PACKAGE / "nn" / name).read_text()
        found = [node for node in ast.walk(ast.parse(text)) if getattr(node, "name", None) in functions]
        assert len(found) == len(functions), name
        lines += sum(node.end_lineno - node.lineno + 1 for node in found)
    assert lines <= 750


def test_tuned_constants_are_few_and_say_their_units():
    names = [name for path in (PACKAGE / "auto").glob("*.py") for name in constants(path)]
    names += constants(PACKAGE / "nn" / "_boundary.py")
    assert len(names) <= 14
    assert [name for name in names if name.rpartition("_")[2] not in UNITS] == []


def test_the_page_of_the_guide_is_short():
    assert len((PACKAGE.parent / "docs" / "learn" / "auto.md").read_text().split()) <= 600  # with its code
