"""Scans and steps beside a copy of the least bytes that they must move; see `python -m bench.kernels`."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from bench.gpu.stages.base import Figures, Rows, Where
from bench.kernels.measure import Case, measure, measure_step
from bench.roofline.measure import copy_rate

CASES = (
    Case(1_000_000, 1, 32), Case(100_000, 1, 32), Case(100_000, 1, 32, 32), Case(1_000_000, 1, 8),
    Case(100_000, 1, 32, 2), Case(100_000, 1, 32, dtype=torch.bfloat16), Case(100_000, 1, 8, 8),
    Case(100_000, 1, 64, 64), Case(100_000, 1, 32, 4), Case(10_000, 1, 32), Case(100_000, 16, 32),
    Case(100_000, 1, 32, 32, torch.bfloat16), Case(100_000, 1, 16, 16),
)  # fmt: skip


def rows(where: Where) -> Rows:
    """The rate of a copy, scans, then the steps of a GRU with and without the rest of an iteration."""
    found: Rows = {"copy": partial(copy, where)}
    found |= {_name(case): partial(scan, where, case) for case in CASES[:4]}
    found |= {f"GRU, D = {width}": partial(step, where, width) for width in (32, 8, 64)}
    found |= {_name(case): partial(scan, where, case) for case in CASES[4:]}
    return found


def _name(case: Case) -> str:
    kind = {1: "diagonal", case.width: "full"}.get(case.size, f"{case.size}x{case.size} blocks")
    return f"{kind}, {str(case.dtype)[6:]}, T = {case.length:,}, D = {case.width}, batch {case.batch}"


def copy(where: Where) -> Figures:
    """Bytes read and written per second."""
    rate = copy_rate(1 << where.size(28, 12), where.device, 1 if where.tiny else 7)
    return {"bytes_per_second": rate, "line": f"{rate / 1e12:.2f} TB/s"}


def scan(where: Where, case: Case) -> Figures:
    """`copies` is how many copies of the least bytes the kernel takes."""
    found = measure(dataclasses.replace(case, length=where.size(case.length, 40)), where.device, peers=False)
    return {**found, "line": f"{found['copies']:.2f} copies, {found['us']['kernel']['graph']:.0f} us"}


def step(where: Where, width: int) -> Figures:
    """Value and diagonal, and a whole iteration."""
    found = measure_step(width, where.size(100_000, 40), where.device)
    return {**found, "line": ", ".join(f"{name} {time['graph']:.0f} us" for name, time in found["us"].items())}
