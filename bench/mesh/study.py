"""Everything that `python -m bench.mesh` finds, as rows for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch.distributed as dist

from bench.mesh.counted import count, formula, headers, in_sockets
from bench.mesh.measure import RANKS, Case, rows
from bench.mesh.model import Check, amounts
from bench.mesh.model import fit as fit_costs
from bench.mesh.problems import KINDS
from bench.mesh.ranks import on_ranks
from bench.mesh.work import Work, work

SIZES = (4, 2), (16, 2)
"""Width and batch of the counts."""


def counts(
    kinds: tuple[str, ...] = tuple(KINDS), ranks: Sequence[int] = RANKS, sizes: tuple[tuple[int, int], ...] = SIZES
) -> list[dict[str, Any]]:
    """What every rank sends in an iteration, beside the formula."""
    found = []
    for number in ranks:
        for rank, answers in enumerate(on_ranks(number, count, kinds, sizes)):
            named = [(name, *size) for name in kinds for size in sizes]
            for (name, width, batch), sent in zip(named, answers, strict=True):
                wire = in_sockets(KINDS[name], width, batch, rank, number)
                found.append(
                    {
                        "kind": name, "ranks": number, "rank": rank, "width": width, "batch": batch, **asdict(sent),
                        "formula": formula(KINDS[name], width, batch), "in_sockets": wire,
                        "headers": headers(sent, wire),
                    }
                )  # fmt: skip
    return found


def worked(found: Sequence[Case]) -> list[dict[str, Any]]:
    """What an iteration computes, for every kind and width, alone and as a rank of a mesh."""
    named = list(dict.fromkeys((case.kind, case.width) for case in found))
    return on_ranks(1, _works, named)[0]


def _works(group: dist.ProcessGroup, named: list[tuple[str, int]]) -> list[dict[str, Any]]:
    del group  # the default one
    return [
        {"kind": kind, "width": width, "shares": shares, "work": asdict(work(kind, width, 1, shares=shares))}
        for kind, width in named
        for shares in (False, True)
    ]


def timed(found: list[Case], rounds: int) -> list[dict[str, Any]]:
    """The measured times; each is printed when it is known."""
    kept = []
    for row in rows(found, rounds):
        print(row, flush=True)
        kept.append(row)
    return kept


def fit(found: Sequence[dict[str, Any]], work_rows: Sequence[dict[str, Any]], cores: int) -> dict[str, Any]:
    """The costs, fitted to all but one of the lengths of each kind and width, and the errors of the model: where it was
    fitted; at the length left out; on the most ranks, where it is fitted to fewer at the other lengths."""
    of = {(row["kind"], row["width"], row["shares"]): Work(**row["work"]) for row in work_rows}
    left_out = set()
    for kind, width in dict.fromkeys((row["kind"], row["width"]) for row in found):
        lengths = sorted({row["length"] for row in found if (row["kind"], row["width"]) == (kind, width)})
        left_out.add((kind, width, lengths[-2]))
    most = max(row["ranks"] for row in found)

    def parts(rows: list[dict[str, Any]]) -> tuple[list[Any], list[float]]:
        def work_of(row: dict[str, Any]) -> Work:
            return of[row["kind"], row["width"], row["ranks"] > 0]

        return [amounts(row, cores, work_of) for row in rows], [row["seconds"] for row in rows]

    seen = [row for row in found if (row["kind"], row["width"], row["length"]) not in left_out]
    unseen = [row for row in found if row not in seen]
    costs = fit_costs(*parts(seen))
    fewer = fit_costs(*parts([row for row in seen if row["ranks"] < most]))
    checks = {
        "fitted": Check.of(*parts(seen), costs),
        "lengths": Check.of(*parts(unseen), costs),
        "ranks": Check.of(*parts([row for row in found if row["ranks"] == most]), fewer),
    }
    return {"costs": asdict(costs), "checks": {name: asdict(check) for name, check in checks.items()}}
