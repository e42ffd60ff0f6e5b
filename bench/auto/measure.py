"""Times `Auto` and every fixed method on one problem, after a check of their results."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.auto.problems import Case, Layer, Recurrence
from bench.common.timing import alternately, first_run

WARM = 12
"""Solves that a kept `Auto` learns from before it is timed."""

LONG = 1.0
"""Seconds from which a first run is the figure; below, the first one's fresh memory would weigh too much."""

ROUNDS, SECONDS = (5, 25), 3.0
"""Rounds at least and at most, and in between as many as take so long: short runs are noisy."""

FRESH = 1 + ROUNDS[1]
"""New layers for the runs of *first*: one for the gate, one a round."""

HOPELESS = 6.0
"""A fixed method is stopped after so many times what step-by-step evaluation takes."""

RESIDUAL = 4.0
"""Residuals are evaluated anew in one batch, which rounds differently: so many times the tolerance is let through."""

OUTPUT, GRADIENT = 1e-3, 1e-2
"""Largest relative differences to torch's kernel that count as right: trained networks amplify the residual of 1e-5."""

METHODS = {"Newton": li.Newton(), "QuasiNewton": li.QuasiNewton(), "TrustRegion(Newton)": li.TrustRegion(li.Newton())}
"""With a full Jacobian all but the second, which every problem gets."""

STEPWISE, FIRST, KEPT = "step by step", "Auto, first", "Auto, kept"

Run = Callable[[], Any]


def fixed(dense: bool) -> dict[str, li.LDSApproximation]:
    """The fixed choices for a problem."""
    methods: dict[str, li.LDSApproximation] = dict(METHODS) if dense else {"QuasiNewton": li.QuasiNewton()}
    return methods | {"Picard": li.Picard(), "Jacobi": li.Jacobi()}


def recurrence(problem: Recurrence, dense: bool) -> tuple[dict[str, Run], Callable[[Any], bool]]:
    """The contenders for a recurrence, and the gate."""
    options: dict[str, Any] = {"guess": problem.guess, "rtol": problem.rtol, "atol": problem.atol, "throw": False}
    arguments = problem.f, problem.s0, problem.inputs

    def stepwise() -> Tensor:
        with torch.no_grad():
            return li.sequential(*arguments)

    start = time.perf_counter()
    stepwise()
    patience = HOPELESS * (time.perf_counter() - start)

    def with_method(method: li.LDSApproximation) -> Run:
        def run() -> li.Solution:
            deadline = time.perf_counter() + patience
            late = lambda progress: torch.full_like(progress.residual > 0, time.perf_counter() > deadline)  # noqa: E731
            return li.solve(*arguments, method, stop=late, **options)

        return run

    kept = li.Auto()
    runs: dict[str, Run] = {STEPWISE: stepwise}
    runs |= {name: with_method(method) for name, method in fixed(dense).items()}
    runs[FIRST] = lambda: li.solve(*arguments, li.Auto(), **options)
    runs[KEPT] = lambda: li.solve(*arguments, kept, **options)

    def right(result: Any) -> bool:
        if isinstance(result, Tensor):
            return True
        value = problem.f(torch.cat([problem.s0[None], result.states[:-1]]), problem.inputs)
        default = 1e-5 if value.dtype == torch.float32 else 1e-10
        rtol, atol = (default if bound is None else bound for bound in (problem.rtol, problem.atol))
        # Rows taken step by step differ by rounding from the same rows in one batch.
        bound = RESIDUAL * (atol + rtol * value.abs()) + 64 * torch.finfo(value.dtype).eps * value.abs().amax(0)
        return result.converged and bool(((value - result.states).abs() <= bound).all())

    return runs, right


def layer(problem: Layer, dense: bool) -> tuple[dict[str, Run], Callable[[Any], bool]]:
    """The contenders for a layer, torch's own kernel as the step-by-step one, and the gate."""
    theirs, x = problem.module.requires_grad_(problem.training), problem.x
    methods: dict[str, Any] = {"fixed_method": li.nn.fixed_method(theirs)}
    if dense:
        methods |= METHODS
    layers = {name: _twin(theirs, method) for name, method in methods.items()}
    weights = torch.randn(1)

    def forward(module: torch.nn.RNNBase) -> tuple[Tensor, ...]:
        output = module(x)[0]
        if not problem.training:
            return (output,)
        gradients = torch.autograd.grad((output * weights).square().mean(), tuple(module.parameters()))
        return output.detach(), *gradients

    kept = _twin(theirs, None)
    runs: dict[str, Run] = {STEPWISE: lambda: forward(theirs)}
    runs |= {name: lambda module=module: forward(module) for name, module in layers.items()}
    fresh = [_twin(theirs, None) for _ in range(FRESH)]  # making a module is no part of a solve
    runs[FIRST] = lambda: forward(fresh.pop())
    runs[KEPT] = lambda: forward(kept)
    expected = forward(theirs)

    def right(result: Any) -> bool:
        bounds = [OUTPUT, *[GRADIENT] * (len(expected) - 1)]
        pairs = zip(result, expected, bounds, strict=True)
        return all(float((a - b).abs().max()) <= bound * max(float(b.abs().max()), 1e-30) for a, b, bound in pairs)

    return runs, right


def _twin(theirs: torch.nn.RNNBase, method: li.LDSApproximation | li.Auto | None) -> torch.nn.RNNBase:
    """One of ours on the same weights: a copy of them would be cold in the caches, and nothing else is compared."""
    kind = {torch.nn.RNN: li.nn.RNN, torch.nn.GRU: li.nn.GRU, torch.nn.LSTM: li.nn.LSTM}[type(theirs)]
    ours = kind(
        theirs.input_size,
        theirs.hidden_size,
        num_layers=theirs.num_layers,
        bidirectional=theirs.bidirectional,
        method=method,
    )
    for name, weight in theirs.named_parameters():
        setattr(ours, name, weight)
    ours._init_flat_weights()  # else the first forward would
    return ours


def measure(case: Case) -> dict[str, Any]:
    """One problem: times in milliseconds by contender, and what the kept `Auto` decided."""
    problem = case.make()
    make = recurrence if isinstance(problem, Recurrence) else layer
    runs, right = make(problem, case.dense)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", li.PerformanceWarning)  # a layer over its budget: its time counts
        for _ in range(WARM):
            runs[KEPT]()
        firsts = {name: first_run(run) for name, run in runs.items()}
        passed = {name: right(first.result) for name, first in firsts.items()}
        racing = {name: run for name, run in runs.items() if passed[name]}
        round_ = sum(firsts[name].seconds for name in racing if firsts[name].seconds < LONG)
        rounds = max(ROUNDS[0], min(ROUNDS[1], int(SECONDS / (round_ or SECONDS))))
        times = alternately(racing, {name: firsts[name].seconds for name in racing}, rounds, long=LONG)
    decided = getattr(firsts[KEPT].result, "decisions", ())
    return {
        "problem": case.name,
        "held_out": case.held_out,
        "ms": {name: timing.ms for name, timing in times.items()},
        "wrong": [name for name, good in passed.items() if not good],
        "decisions": [str(decision) for decision in decided],
    }
