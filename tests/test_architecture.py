"""The structure of the package: which way imports point, and that a name means one thing."""

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lds_iter"

FLOORS = [
    ["errors", "solution", "_torch", "recurrence"],
    ["linear"],
    ["distributed"],
    ["kernels"],
    ["derivatives"],
    ["methods"],
    ["guesses"],
    ["loop"],
    ["auto"],
    ["gradients"],
    ["compile"],
    ["checks"],
    ["plain_loop", "solve"],
    ["by_hand", "carries"],
    ["diagnostics"],
    ["testing"],
    ["nn"],
    ["ode", "mcmc", "depth", "diffusion"],
    ["__init__"],
]
"""The rooms of the package, from the ground up: each imports from floors below it, and from its own."""

MEANINGS = {
    "main", "scan_", "step", "_launch", "_rows", "_times", "_check", "_finite", "P", "R", "T", "Function",
    "parallelize",
    "LENGTH", "STEPS", "WARPS",  # of a kernel: rows of a chunk, rows read ahead, warps of a program
}  # fmt: skip
"""Names that several modules may define: entry points, type variables, and those that say the same in each."""


TO_BE_RENAMED = {
    "iterate",  # the loop by hand, and the loop
}  # fmt: skip
"""Public names that two modules define with different meanings: this list may only become shorter."""


@functools.cache
def modules():
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, tree, known):
    """The modules of this package that a file imports: at the top, inside of functions, and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lds_iter"):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("lds_iter"))


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@functools.cache
def graph():
    found = modules()
    known = {name_of(path) for path in found}
    return {name_of(path): set(imports_of(path, tree, known)) - {name_of(path)} for path, tree in found.items()}


def test_every_room_has_a_floor():
    rooms = {room(name_of(path)) for path in modules()}
    assert rooms <= {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("module", sorted(graph()))
def test_imports_point_down(module):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    mine = floor[room(module)]
    above = {other for other in graph()[module] if floor[room(other)] > mine and room(module) != "__init__"}
    assert not above


def test_no_circles_between_files():
    edges, state = graph(), {}

    def visit(module, path):
        if state.get(module) == "done":
            return
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        for other in sorted(edges.get(module, ())):
            visit(other, [*path, module])
        state[module] = "done"

    for module in sorted(edges):
        visit(module, [])


def definitions(tree):
    """Names that a module defines at its top: functions, classes, constants; not what it imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_public_name_gets_a_second_meaning():
    """Names with an underscore are of their module alone."""
    places = defaultdict(list)
    for path, tree in modules().items():
        for name in set(definitions(tree)):
            places[name].append(name_of(path))
    twice = {name for name, where in places.items() if len(where) > 1 and name not in MEANINGS and name[0] != "_"}
    assert twice <= TO_BE_RENAMED, {name: places[name] for name in twice - TO_BE_RENAMED}
    assert twice >= TO_BE_RENAMED, TO_BE_RENAMED - twice


def test_the_root_holds_few_files():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 8
