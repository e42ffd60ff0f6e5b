"""A step of training reads nothing from the device: each read waits until the device is done."""

import ast
from pathlib import Path

import recipes

FOLDER = Path(recipes.__path__[0])
DECIDES = {"word_problem/training.py: float(_right(logs, wanted).mean())"}
"""Whether the next words are longer depends on it."""


def test_a_step_of_training_reads_nothing_from_the_device():
    """What an `if` guards is not read in every step."""
    found = {
        f"{path.relative_to(FOLDER)}: {ast.unparse(call)}"
        for path in FOLDER.rglob("*.py")
        for step in steps_of_training(ast.parse(path.read_text()))
        for call in calls_in_every_step(step)
        if reads(call)
    }
    assert found == DECIDES


def steps_of_training(tree):
    """The innermost loops that go backward, and Lightning's `training_step`."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While) and goes_backward(node)]
    inner = [loop for loop in loops if not any(other in loops for other in ast.walk(loop) if other is not loop)]
    return inner + [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "training_step"
    ]


def goes_backward(node):
    return any(isinstance(child, ast.Attribute) and child.attr == "backward" for child in ast.walk(node))


def calls_in_every_step(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.If):
            yield from [child] if isinstance(child, ast.Call) else []
            yield from calls_in_every_step(child)


def reads(call):
    """A conversion to a number of Python or numpy, of something that was not drawn on the CPU."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in {"item", "tolist", "cpu", "numpy", "float", "int", "bool"} and "'cpu'" not in ast.unparse(call)
