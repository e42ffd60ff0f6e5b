"""The structure of the package in figures: `python -m bench.common.structure`.

Lines, files, the longest function, branch points of the loop, and how often a call moves from one file to another: in
one plain iteration, and in a training step of a layer. Counts, no times.

A move is a call into another file of the package, or a return to one; every file counts, `_torch.py` and the CPU
kernels' own too. The count without kernels leaves out the stays in `kernels/`, and is a second figure.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lds_iter as li
from lds_iter.loop.iteration import iterate

PACKAGE = Path(li.__file__).parent
LOOP = ("loop/iteration.py", "loop/tiles.py", "loop/frontier.py", "loop/run.py", "loop/state.py", "linear/cut.py")


class Moves:
    """Counts how often execution goes from one file of the package to another."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._stack: list[str] = []

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        ours = name.startswith(str(PACKAGE))
        if event == "call" and ours:
            self._stack.append(name)
            self._enter(name)
        elif event == "return" and ours and self._stack:
            self._stack.pop()
            if self._stack:
                self._enter(self._stack[-1])

    def _enter(self, name: str) -> None:
        short = str(Path(name).relative_to(PACKAGE))
        if not self.files or self.files[-1] != short:
            self.files.append(short)


def watched(call: Callable[[], Any]) -> Moves:
    """What one call enters."""
    moves = Moves()
    sys.setprofile(moves)
    try:
        call()
    finally:
        sys.setprofile(None)
    return moves


def one_iteration() -> Moves:
    """One plain iteration in the middle of a solve: a function of the user's, quasi-Newton, a CPU."""
    f = lambda s, u: torch.tanh(0.9 * s.roll(1, -1) + u)  # noqa: E731
    with torch.no_grad():
        start = li.start(f, torch.zeros(4, device="cpu"), torch.randn(64, 4, device="cpu"), li.QuasiNewton())
        now = li.iterate(start)
        return watched(lambda: iterate(now.problem, now.method, now.state, now.options))


def training_step() -> Moves:
    """Forward and backward of a layer as it comes, the second time."""
    layer, x = li.nn.GRU(3, 8), torch.randn(400, 1, 3, device="cpu")

    def step() -> None:
        layer(x)[0].square().mean().backward()

    step()
    return watched(step)


def functions(tree: ast.AST) -> list[tuple[int, str]]:
    """Length without docstring, and name, of every function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            found.append(((node.end_lineno or 0) - first.lineno + 1, node.name))
    return found


def branches(tree: ast.AST) -> int:
    """Branch points: statements and expressions that decide, and loops that may not run."""
    kinds = ast.If | ast.IfExp | ast.While | ast.Match
    return sum(isinstance(node, kinds) for node in ast.walk(tree))


def _outside(files: list[str]) -> list[str]:
    """The stays outside of the kernels; those before and after a kernel in one file are one stay."""
    kept = [name for name in files if not name.startswith("kernels")]
    return [name for number, name in enumerate(kept) if number == 0 or name != kept[number - 1]]


def figures() -> dict[str, Any]:
    """All of them."""
    files = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    outside = {path: text for path, text in files.items() if "kernels" not in path.parts}
    trees = {path: ast.parse(text) for path, text in outside.items()}
    every = [(length, f"{path.relative_to(PACKAGE)}:{name}") for path, tree in trees.items()
             for length, name in functions(tree)]  # fmt: skip
    iteration, step = one_iteration(), training_step()
    sizes = [(text.count("\n"), str(path.relative_to(PACKAGE))) for path, text in outside.items()]
    return {
        "python lines outside of kernels": sum(size for size, _ in sizes),
        "files outside of kernels": len(sizes),
        "files in the root": len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]),
        "longest file": max(sizes),
        "longest function": max(every),
        "functions over 30 lines": sum(length > 30 for length, _ in every),
        "functions": len(every),
        "branch points of the loop": sum(branches(ast.parse((PACKAGE / name).read_text())) for name in LOOP),
        "files of one plain iteration": len(set(iteration.files)),
        "moves of one plain iteration": len(iteration.files),
        "files of one plain iteration, without kernels": len(set(_outside(iteration.files))),
        "moves of one plain iteration, without kernels": len(_outside(iteration.files)),
        "path of one plain iteration": iteration.files,
        "files of a training step of nn.GRU": len(set(step.files)),
    }


if __name__ == "__main__":
    print(json.dumps(figures(), indent=2))
