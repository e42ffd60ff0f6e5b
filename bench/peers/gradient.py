"""Gradients through a diagonal scan: ours and those of torch's `associative_scan`, against a loop in float64.

The mode "generic" differentiates its own operations, rightly. The mode "pointwise", the fast one, is for GPUs only;
what it runs is an operator with a backward pass of its own, which can be called on a CPU too, and is wrong in `a`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.peers.base import load
from bench.peers.torch_scan import MODULE, compose, scan

SHAPE = (200, 4, 8)


def loop(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence, step by step."""
    x, states = torch.zeros_like(b[0]), []
    for t in range(len(b)):
        x = a[t] * x + b[t]
        states.append(x)
    return torch.stack(states)


def compare() -> list[dict[str, Any]]:
    """Relative errors of the gradients of a weighted sum of the states in `a` and in `b`, by each scan."""
    generator = torch.Generator().manual_seed(0)
    a = 0.5 + 0.5 * torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    b, weights = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    scans = {
        "loop": loop,
        "lds_iter.linear_scan": _ours,
        "torch associative_scan, generic": scan,
        "torch associative_scan, the operator of pointwise": _operator,
    }
    found: dict[str, tuple[Tensor, ...]] = {}
    rows: list[dict[str, Any]] = []
    for name, run in scans.items():
        leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
        try:
            found[name] = torch.autograd.grad((run(*leaves) * weights).sum(), leaves)
        except Exception as raised:  # a prototype of torch's: whatever it raises is its outcome
            rows.append({"scan": name, "raised": f"{type(raised).__name__}: {str(raised).splitlines()[0][:80]}"})
            continue
        exact = found["loop"]
        by_leaf = [float((x - y).norm() / y.norm()) for x, y in zip(found[name], exact, strict=True)]
        rows.append({"scan": name, "error_a": by_leaf[0], "error_b": by_leaf[1]})
    return rows[1:]


def _ours(a: Tensor, b: Tensor) -> Tensor:
    return li.linear_scan(li.Diagonal(a), b)


def _operator(a: Tensor, b: Tensor) -> Tensor:
    def flat(a0: Tensor, b0: Tensor, a1: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
        return compose((a0, b0), (a1, b1))

    return load(MODULE).associative_scan_op(flat, (a, b), ())[1]
