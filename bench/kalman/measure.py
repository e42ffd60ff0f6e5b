"""Counts iterations of the Kalman methods, and times one iteration of each."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.utils import _pytree as pytree

import lds_iter as li
from bench.common import problems
from bench.common.problems import Problem

ITERATIONS = 3
SHAPES = [("GRU", 4, 10_000), ("GRU", 8, 10_000), ("GRU", 16, 10_000), ("GRU", 32, 4_000)]
SHAPES += [("Lorenz-96", 5, 1_000), ("Lorenz-96", 5, 10_000), ("Lorenz-96", 8, 10_000), ("Lorenz-96", 16, 10_000)]
SIGMA2 = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8]
BARS = {li.Newton(): 4.0, li.QuasiNewton(): 3.0}
ERROR = 1e-3
"""Largest difference to the plain loop, relative to the largest state, at which a row is timed at all: float32 at a
residual of 1e-5, which Lorenz-96 amplifies about tenfold over the 200 steps to which the gate is applied."""


def lorenz96(width: int = 5, length: int = 1000, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """The atmosphere of Lorenz 1996, `x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + 8`, by Euler steps of 0.01.

    Starts on the attractor: 1000 steps from 8 plus N(0, 0.01) numbers, rounded to float32. The
    inputs are the forcing, 8.
    """

    def f(s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return s + 0.01 * ((s.roll(-1, -1) - s.roll(2, -1)) * s.roll(1, -1) - s + u)

    forcing = torch.full((length, 1), 8.0, dtype=dtype)
    s = 8 + 0.1 * torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for _ in range(1000):
        s = f(s, torch.tensor(8.0))
    return Problem(f, s.float().to(dtype), forcing)


def problem(name: str, width: int, length: int) -> Problem:
    """One of `SHAPES`, in float32."""
    return problems.default_gru(width, length) if name == "GRU" else lorenz96(width, length, dtype=torch.float32)


class Unfused:
    """A recurrence whose iterations the loop makes of its derivatives, as it does for any other."""

    def __init__(self, f: Any) -> None:
        self._f = f

    def __call__(self, s: torch.Tensor, u: Any) -> torch.Tensor:
        return self._f(s, u)

    def linearize(self, s: torch.Tensor, u: Any) -> li.AbstractDerivatives:
        return self._f.linearize(s, u)


def seconds_per_iteration(problem: Problem, method: li.LDSApproximation) -> float:
    """Of a few iterations from a guess of zeros."""
    guess = torch.zeros(len(pytree.tree_leaves(problem.inputs)[0]), *problem.s0.shape)
    start = time.process_time()
    solution = li.solve(*problem, method, guess=guess, rtol=0, atol=0, max_iters=ITERATIONS, throw=False)
    return (time.process_time() - start) / int(solution.iterations)


def gate(name: str, width: int, length: int, method: li.LDSApproximation) -> float:
    """The relative error of a solved trajectory of at most 200 steps; raises above `ERROR`."""
    short = problem(name, width, min(length, 200))
    truth = li.sequential(*short)
    error = float((li.solve(*short, method).states - truth).abs().max() / truth.abs().max())
    if not error < ERROR:
        raise AssertionError(f"{method!r} on {name}, D = {width}: relative error {error:.1e} above {ERROR}.")
    return error


def costs(shapes: list[tuple[str, int, int]] | None = None, rounds: int = 9) -> list[dict[str, Any]]:
    """Rows of the table of costs."""
    rows = []
    for name, width, length in SHAPES if shapes is None else shapes:
        at_hand = problem(name, width, length)
        for plain, bar in BARS.items():
            runs = _runs(at_hand, plain)
            errors = [gate(name, width, length, method) for _, method in runs.values()]
            for run in runs.values():
                seconds_per_iteration(*run)
            times = [[seconds_per_iteration(*run) for run in runs.values()] for _ in range(rounds)]
            medians = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            rows.append(
                {"problem": name, "D": width, "T": length, "of": type(plain).__name__, "bar": bar, "error": max(errors)}
                | dict(zip(runs, medians, strict=True))
            )
            print(_line(rows[-1]), flush=True)
    return rows


def _runs(at_hand: Problem, plain: li.TransitionApproximation) -> dict[str, tuple[Problem, li.LDSApproximation]]:
    """What is timed: the undamped method, from explicit Jacobians and, where there is that, fused; the damped ones."""
    fused = hasattr(at_hand.f, "sweep")
    return {
        "plain_ms": (at_hand._replace(f=Unfused(at_hand.f)) if fused else at_hand, plain),
        **({"fused_ms": (at_hand, plain)} if fused else {}),
        "filter_ms": (at_hand, li.LevenbergMarquardt(100.0, plain)),
        "smoother_ms": (at_hand, li.LevenbergMarquardt(100.0, plain, li.Smoother())),
    }


def _line(row: dict[str, Any]) -> str:
    text = f"{row['problem']:10} D={row['D']:2} T={row['T']:6} {row['of']:12} bar {row['bar']:.0f}"
    for base in "plain", "fused":
        if f"{base}_ms" in row:
            ratios = [f"{form} x {row[f'{form}_ms'] / row[f'{base}_ms']:.2f}" for form in ("filter", "smoother")]
            text += f"; {base} {row[f'{base}_ms']:.2f} ms, {', '.join(ratios)}"
    return text


def counts(length: int = 300) -> list[dict[str, object]]:
    """Iterations on Lorenz-96 (D = 5, T = 300, float64, residual 1e-10) over decades of sigma^2."""
    at_hand, rows = lorenz96(length=length), []
    for plain in BARS:
        count = int(li.solve(*at_hand, plain).iterations)
        rows.append({"of": type(plain).__name__, "form": "undamped", "sigma2": None, "iterations": count})
        print(f"{type(plain).__name__:12} undamped {count}", flush=True)
        for form in li.Filter(), li.Smoother():
            for sigma2 in SIGMA2:
                count = int(li.solve(*at_hand, li.LevenbergMarquardt(sigma2, plain, form)).iterations)
                rows.append(
                    {"of": type(plain).__name__, "form": type(form).__name__, "sigma2": sigma2, "iterations": count}
                )
                print(f"{type(plain).__name__:12} {type(form).__name__:8} {sigma2:.0e} {count}", flush=True)
    return rows
