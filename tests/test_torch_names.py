"""Every name of torch that the sources use exists in the torch that is installed, the oldest one and the newest one.

The rows of `tests/matrix` run this with each torch that is promised: a name that a later torch has added, in a line
that no quick test reaches, is found there.
"""

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import lds_iter

ROOT = Path(__file__).parents[1]
ROOMS = [Path(lds_iter.__file__).parent, *(ROOT / room for room in ("bench", "recipes"))]
SOURCES = [path for room in ROOMS for path in sorted(room.rglob("*.py"))]

GUARDS = {"ImportError", "ModuleNotFoundError", "AttributeError"}
"""Who catches these has thought of a torch without the name."""


class Names(ast.NodeVisitor):
    """Dotted names of torch, with the lines that use them."""

    def __init__(self):
        self.bound, self.found = {}, {}

    def visit_Import(self, node):
        for name in node.names:
            if name.name.partition(".")[0] == "torch":
                self.found[name.name] = node.lineno
                self.bound[name.asname or "torch"] = name.name if name.asname else "torch"

    def visit_ImportFrom(self, node):
        if node.module and node.level == 0 and node.module.partition(".")[0] == "torch":
            for name in node.names:
                self.found[f"{node.module}.{name.name}"] = node.lineno
                self.bound[name.asname or name.name] = f"{node.module}.{name.name}"

    def visit_Attribute(self, node):
        root, *rest = ast.unparse(node).split(".") if chain(node) else [""]
        if root in self.bound:
            self.found[".".join([self.bound[root], *rest])] = node.lineno
        else:
            self.generic_visit(node)

    def visit_Try(self, node):
        caught = {part.id for handler in node.handlers for part in ast.walk(handler.type or handler)
                  if isinstance(part, ast.Name)}  # fmt: skip
        for part in [*([] if caught & GUARDS else node.body), *node.handlers, *node.orelse, *node.finalbody]:
            self.visit(part)


def chain(node):
    """Whether it is `a.b.c` of names alone."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def names(text):
    """Imports come first in a file, or at least before what they bind is used."""
    found = Names()
    found.visit(ast.parse(text))
    return found.found


def missing(name):
    """Why a dotted name cannot be had; empty when it can. What an object says of itself is not asked further.

    A package may bind a function in place of its module of the same name, so modules are looked for first.
    """
    first, *rest = name.split(".")
    owner, path = importlib.import_module(first), first
    for part in rest:
        path = f"{path}.{part}"
        module = sys.modules.get(path) if inspect.ismodule(owner) else None
        if module is None and not hasattr(owner, part):
            try:
                module = importlib.import_module(path)
            except ImportError:
                return path
        owner = getattr(owner, part) if module is None else module
    return ""


@pytest.mark.filterwarnings("ignore:Please use the new API settings:UserWarning")  # torch 2.9, by `allow_tf32`
def test_every_name_of_torch_exists():
    seen = {path: names(path.read_text()) for path in SOURCES}
    absent = {name: missing(name) for name in sorted({name for found in seen.values() for name in found})}
    assert [f"{path.name}:{line}: {absent[name]}"
            for path, found in seen.items() for name, line in found.items() if absent[name]] == []  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.nn.functional.slove(1)",
        "import torch.slove",
        "from torch import slove",
        "from torch.nn import functional as F\nF.slove",
        "import torch\ndef f():\n    return torch.zeros(2) + torch.slove.of(1)",
    ],
)
def test_a_name_that_is_not_there_is_found(text):
    assert [missing(name) for name in names(text) if missing(name)] != []


def test_a_name_whose_absence_is_caught_is_allowed():
    text = "try:\n    from torch import slove\nexcept ImportError:\n    from torch import zeros as slove\nslove(1)"
    assert names(text) == {"torch.zeros": 4}
