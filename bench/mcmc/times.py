"""Rows of the bench of times: contenders on cases, each with its gate, and effective sample sizes by ArviZ."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.mcmc.cases import CASES, Case
from bench.mcmc.contenders import OURS, AbstractContender, CompiledChain, Drawn, Loop
from bench.mcmc.jax_peers import BlackJAX, NumPyro
from recipes.mcmc.report import summary

CONTENDERS: tuple[AbstractContender, ...] = (Loop(), *OURS, CompiledChain(), BlackJAX(), NumPyro())
CHAINS = (1, 4)

DIFFERENCE = 1e-6
"""The largest one of positions, of the size of 1 to 100, between an exact contender and the loop."""

STANDARD_ERRORS = 5
"""By which a variance may miss the truth."""

Key = tuple[str, int, str]


@dataclass(frozen=True)
class Row:
    """One contender on one case.

    Attributes:
        state: `timed`, or why there is no time.
        ess: the smallest of the numbers of a position.
        difference: the largest one to the loop's positions; None for noise of its own.
    """

    case: str
    chains: int
    contender: str
    moves: int
    state: str
    seconds: float | None = None
    setup: float | None = None
    iterations: int | None = None
    gradients: float | None = None
    ess: float | None = None
    difference: float | None = None


def times(moves: int, done: Collection[Key]) -> Iterator[dict[str, Any]]:
    """The rows that are not done yet; of `moves` moves at most."""
    for case in CASES:
        for chains in CHAINS if case.timed else ():
            for contender in CONTENDERS:
                missing = contender.missing(case, chains)
                if missing.startswith(("another", "compiled")) or (case.name, chains, contender.name) in done:
                    continue
                length = min(moves, case.timed)
                row = Row(case.name, chains, contender.name, length, missing or "timed")
                yield asdict(row if missing else _measured(row, contender, case))


def left(done: Collection[Key]) -> int:
    """How many rows are not done."""
    wanted = [
        (case.name, chains, contender.name)
        for case in CASES if case.timed
        for chains in CHAINS
        for contender in CONTENDERS if not contender.missing(case, chains).startswith(("another", "compiled"))
    ]  # fmt: skip
    return sum(key not in done for key in wanted)


@functools.lru_cache(maxsize=1)
def _loop(name: str, chains: int, moves: int) -> Drawn:
    """The reference of a case, kept while its contenders come."""
    return Loop().run(next(case for case in CASES if case.name == name), chains, moves)


def _measured(row: Row, contender: AbstractContender, case: Case) -> Row:
    reference = _loop(case.name, row.chains, row.moves)
    try:
        drawn = reference if isinstance(contender, Loop) else contender.run(case, row.chains, row.moves)
    except Exception as raised:  # of any library: it is its row's outcome
        first = (str(raised).splitlines() or [""])[0]
        return Row(row.case, row.chains, row.contender, row.moves, f"raised {type(raised).__name__}: {first[:80]}")
    difference = float((drawn.positions - reference.positions).abs().max()) if contender.exact else None
    found = summary({"x": drawn.positions.movedim(1, 0)})["x"]
    state = _gate(drawn, reference, difference, case, found)
    return Row(
        row.case, row.chains, row.contender, row.moves, state, drawn.seconds, drawn.setup, drawn.iterations,
        drawn.gradients, min(found["ess"]), difference,
    )  # fmt: skip


def _gate(drawn: Drawn, reference: Drawn, difference: float | None, case: Case, found: dict[str, Any]) -> str:
    """Exact contenders must be the loop's chain; the others' variances must be the target's, where that is known."""
    if difference is not None:
        assert drawn.accepted is not None
        assert reference.accepted is not None
        mismatches = int((drawn.accepted != reference.accepted).sum())
        if mismatches or not difference < DIFFERENCE:
            return f"{mismatches} decisions differ, positions by {difference:.0e}"
        return "timed"
    if case.variances is None:
        return "timed"
    squares = drawn.positions.square()
    error = squares.mean((0, 1)) - torch.tensor(case.variances, dtype=squares.dtype)
    size = squares.flatten(0, 1).std(0) / torch.tensor(found["ess"]).sqrt()
    worst = float((error / size).abs().max())
    return "timed" if worst < STANDARD_ERRORS else f"a variance is off by {worst:.0f} standard errors"
