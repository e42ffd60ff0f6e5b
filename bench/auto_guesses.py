"""What a guess would save `li.Auto()`: iterations from several ones, `python -m bench.auto_guesses`.

Counts are exact on any machine. "Another's states" are the solution for other inputs of the same kind, which is what a
kept object could remember; Jacobi sweeps count as iterations here, though each costs less than one of the method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench import problems
from bench.pages import markdown
from lds_iter.nn.gru import GRURecurrence
from recipes.pretrained.networks import load_sleep

SWEEPS = 8
"""Jacobi sweeps in front."""


def pairs() -> Iterator[tuple[str, Any, Tensor, Any, Any]]:
    """A name, `f`, `s0`, inputs, and other inputs of the same kind."""
    other = torch.Generator().manual_seed(99)
    for width in 8, 32:
        f, s0, u = problems.default_gru(width, 1_000)
        yield f"GRU, fresh, D={width}", f, s0, u, f.inputs(torch.randn(1_000, width, generator=other))  # pyright: ignore[reportFunctionMemberAccess]
    network = load_sleep(2_400)
    f = GRURecurrence.from_module(network.gru)
    first, second = network.x.split(1_200)
    yield "GRU(8), trained on sleep", f, torch.zeros(8), f.inputs(first), f.inputs(second)


def counts(f: Any, s0: Tensor, u: Any, other: Any, method: li.LDSApproximation) -> list[int]:
    """Iterations from `s0` repeated, from `f(0, u)`, after Jacobi sweeps, and from another's states."""
    remembered = li.solve(f, s0, other, method).states

    def taken(guess: Any, chosen: li.LDSApproximation = method) -> int:
        return int(li.solve(f, s0, u, chosen, guess=guess).iterations)

    assert isinstance(method, li.TransitionApproximation)
    swept = taken(li.repeat_initial, li.Then(li.Jacobi(), method, SWEEPS))
    return [taken(li.repeat_initial), taken(li.step_from_zero), swept, taken(remembered)]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    for name, f, s0, u, other in pairs():
        for method in li.Newton(), li.QuasiNewton():
            with torch.no_grad():
                rows.append([name, type(method).__name__, *map(str, counts(f, s0, u, other, method))])
    head = ["problem", "method", "`s0` repeated", "`f(0, u)`", f"{SWEEPS} Jacobi sweeps first", "another's states"]
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
