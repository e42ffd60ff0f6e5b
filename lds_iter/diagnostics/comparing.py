"""Several methods on one problem: a table of counts, seconds and errors against the loop."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto import wall_clock
from lds_iter.checks import checked_method
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.loop.notes import explained
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.plain_loop import sequential
from lds_iter.recurrence import Function, detached
from lds_iter.solution import Result, Solution, duration
from lds_iter.solve import solve

Solver = LDSApproximation | AbstractStrategy
COLUMNS_OF_A_COMPARISON = ("method", "result", "iterations", "evaluations", "seconds", "error")


@dataclass(frozen=True)
class Compared:
    """One method's solve. Per sequence means `(*batch)`.

    Attributes:
        name: of the method.
        solution: without a graph, with its `history`.
        seconds: wall-clock time of the fastest solve.
        error: the largest difference from the loop, per sequence.
        errors: the same for each row, `(T, *batch)`.
    """

    name: str
    solution: Solution
    seconds: float
    error: Tensor
    errors: Tensor

    def row(self, sequence: int | None = None) -> tuple[str, ...]:
        """The cells of the table: of all sequences, the worst one of each; or of one, counted over the flat batch."""
        solution, length = self.solution, len(self.solution.states)
        pick = (lambda x: x.flatten()) if sequence is None else (lambda x: x.flatten()[sequence : sequence + 1])
        names = "/".join(Result(int(code)).name for code in pick(solution.result).unique())
        evaluations = float(pick(solution.evaluations).double().mean()) / length
        return (
            self.name,
            names,
            f"{int(pick(solution.iterations).max()):,}",
            f"{evaluations:.1f} T",
            duration(self.seconds),
            f"{float(pick(self.error).max()):.1e}",
        )


@dataclass(frozen=True)
class Comparison:
    """Several methods on one problem: print it, or draw it with `li.diagnostics.comparison_picture`.

    Attributes:
        methods: a `Compared` for each, in the order given.
        truth: the states of the loop, `(T, *batch, D)`.
        loop_seconds: of the fastest loop over time (`li.sequential`).
    """

    methods: tuple[Compared, ...]
    truth: Tensor
    loop_seconds: float

    def __getitem__(self, name: str) -> Compared:
        """The method of this name.

        Raises:
            KeyError: for another name.
        """
        for method in self.methods:
            if method.name == name:
                return method
        raise KeyError(f"no method {name!r} was compared; there are {[method.name for method in self.methods]}")

    @property
    def iterations(self) -> dict[str, int]:
        """Iterations of the slowest sequence of each method that solved all of them."""
        solved = [method for method in self.methods if method.solution.converged]
        return {method.name: int(method.solution.iterations.max()) for method in solved}

    def table(self, sequence: int | None = None) -> str:
        """The comparison as text.

        Args:
            sequence: one element of the batch, counted over its flattened dimensions; None for the worst of each.
        """
        rows = [COLUMNS_OF_A_COMPARISON, *self._rows(sequence)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        )

    def by_element(self) -> str:
        """A table for each element of the batch."""
        count = self.truth[0, ..., 0].numel()
        return "\n\n".join(f"sequence {i}\n{self.table(i)}" for i in range(count))

    def _rows(self, sequence: int | None) -> list[tuple[str, ...]]:
        loop = ("loop over time", "", f"{len(self.truth):,} steps", "1.0 T", duration(self.loop_seconds), "")
        return [*(method.row(sequence) for method in self.methods), loop]

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        head = "".join(f"<th>{name}</th>" for name in COLUMNS_OF_A_COMPARISON)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows(None)
        )
        return f"<table><tr>{head}</tr>{body}</table>"


@explained
def compare(
    f: Function,
    s0: Tensor,
    inputs: Any,
    methods: Sequence[Solver] | Mapping[str, Solver],
    *,
    guess: Tensor | Guess | Mapping[str, Tensor | Guess] = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
    repeats: int = 1,
) -> Comparison:
    """Solve one problem by several methods, and put counts, seconds and errors against the loop side by side.

    Each is solved once with a record, and then `repeats` times for its seconds. A method that does not converge is a
    row of the table, and no error.

    Args:
        f, s0, inputs, rtol, atol, max_iters, window: as `solve` takes them, the same for all.
        methods: a sequence, or a mapping from names.
        guess: as `solve` takes it, the same for all; or a mapping from names of methods to guesses, where it is part of
            the scheme. A method without an entry begins with `repeat_initial`.
        repeats: timed solves, of which the fastest counts.

    Returns:
        A `Comparison`: print it.

    Raises:
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> decay = lambda s, u: 0.5 * s.sin() + u
        >>> found = li.compare(decay, torch.zeros(3), torch.ones(500, 3), [li.Newton(), li.Jacobi()])
        >>> found.iterations["Newton()"] < found.iterations["Jacobi()"]
        True
    """
    named = _named(methods)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"`repeats` must be a whole number, 1 or more, got {repeats!r}.")
    if isinstance(guess, Mapping) and set(guess) - set(named):
        raise ValueError(f"`guess` names {sorted(set(guess) - set(named))}, the methods are {sorted(named)}.")
    with torch.no_grad():
        s0, inputs = s0.detach(), detached(inputs)
        truth, loop_seconds = _timed(lambda: sequential(f, s0, inputs), s0, repeats)
        found = []
        for name, method in named.items():
            options: dict[str, Any] = {
                "guess": guess.get(name, repeat_initial) if isinstance(guess, Mapping) else guess,
                "rtol": rtol, "atol": atol, "max_iters": max_iters, "window": window, "throw": False,
            }  # fmt: skip
            recorded = solve(f, s0, inputs, method, record=True, **options)
            _, seconds = _timed(lambda m=method, o=options: solve(f, s0, inputs, m, **o), s0, repeats)
            errors = (recorded.states - truth).where(recorded.states != truth, 0).abs().amax(-1)
            found.append(Compared(name, recorded.light(), seconds, errors.amax(0), errors))
    return Comparison(tuple(found), truth, loop_seconds)


def _named(methods: Sequence[Solver] | Mapping[str, Solver]) -> dict[str, Solver]:
    """Methods by name: the given one, or the text of the method."""
    if not isinstance(methods, Sequence | Mapping) or isinstance(methods, str) or not methods:
        raise TypeError(f"`methods` must be a list such as [li.Newton(), li.Picard()], or a dict, got {methods!r}.")
    named = dict(methods) if isinstance(methods, Mapping) else {repr(method): method for method in methods}
    if len(named) < len(methods):
        raise ValueError("`methods` has one method twice. Give them names: {'one': li.Newton(), 'two': ...}.")
    for method in named.values():
        checked_method(method)
    return named


def _timed(run: Callable[[], Any], like: Tensor, repeats: int) -> tuple[Any, float]:
    """What it returns, and the seconds of the fastest of some runs."""
    fastest, found = float("inf"), None
    for _ in range(repeats):
        begun = wall_clock(like)
        found = run()
        fastest = min(fastest, wall_clock(like) - begun)
    return found, fastest
