"""Solves of a GRU against `torch.nn.GRU`: benchmarks for pytest."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

import lds_iter as li

RESIDUAL = 1e-5
"""Tolerance on the residual: rtol = 0, atol = this."""

ERROR = 5e-5
"""Largest difference to `torch.nn.GRU` at which a row is timed at all."""

GRADIENT_ERROR = 1e-3
"""Largest relative difference of a parameter's gradient to that of `torch.nn.GRU` at which a row is timed at all."""

ROUNDS = 9

TRAINING = [(10_000, 8, 80.0), (10_000, 32, None), (17_984, 32, 30.0), (100_000, 16, 60.0)]
"""T and D of a training step, and the ratio that must be reached; 17,984 is the length of the EigenWorms series."""

METHODS = {"Newton()": li.Newton(), "QuasiNewton()": li.QuasiNewton()}

FORWARD = [  # T, D, batch, the ratio that Newton must reach (None: part of the map, whatever comes out)
    (1_000, 8, 1, None),
    (10_000, 8, 1, None),
    (100_000, 8, 1, 20.0),
    (1_000, 32, 1, None),
    (10_000, 32, 1, None),
    (100_000, 32, 1, 8.0),
    (10_000, 64, 1, None),
    (10_000, 128, 1, None),
    (10_000, 8, 8, None),
    (10_000, 32, 8, None),
]


def gru(length: int, width: int, batch: int) -> tuple[torch.nn.GRU, torch.Tensor]:
    """A default-initialised GRU and N(0, 1) inputs `(T, batch, D)`, float32."""
    torch.manual_seed(0)
    return torch.nn.GRU(width, width), torch.randn(length, batch, width)


def solve(module: torch.nn.GRU, x: torch.Tensor, method: li.LDSApproximation, **options: Any) -> li.Solution:
    """What is timed: input projections, then the solve from zeros."""
    f = li.nn.GRURecurrence.from_module(module)
    s0 = torch.zeros(x.shape[1], module.hidden_size)
    return li.solve(f, s0, f.inputs(x), method, rtol=0, atol=RESIDUAL, **options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("length", "width", "batch", "bar"), FORWARD)
def test_forward(benchmark: Any, length: int, width: int, batch: int, bar: float | None, name: str) -> None:
    """Forward pass, with the closed-form Jacobian or its diagonal."""
    module, x = gru(length, width, batch)
    method = METHODS[name]
    with torch.no_grad():
        expected, solution = module(x)[0], solve(module, x, method)
        error = float((solution.states - expected).abs().max())
        assert solution.converged
        assert error < ERROR
        peer: list[float] = []

        def run_peer() -> None:
            start = time.perf_counter()
            module(x)
            peer.append(time.perf_counter() - start)

        benchmark.pedantic(lambda: solve(module, x, method), setup=run_peer, rounds=ROUNDS, warmup_rounds=1)
    ours = benchmark.stats.stats.median
    benchmark.extra_info.update(
        T=length, D=width, batch=batch, bar=bar if name == "Newton()" else None, method=name, peer="torch.nn.GRU",
        atol=RESIDUAL, gate=ERROR, rounds=ROUNDS,
        iterations=int(solution.iterations.max()), error=error, ours_ms=1e3 * ours,
        peer_ms=1e3 * statistics.median(peer), ratio=statistics.median(peer) / ours,
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("length", "width", "bar"), TRAINING)
def test_training(benchmark: Any, length: int, width: int, bar: float | None, name: str) -> None:
    """Forward and backward pass."""
    module, x = gru(length, width, 1)
    weights = torch.randn(length, 1, width)

    def gradients(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((states * weights).mean(), tuple(module.parameters()))

    def run_ours() -> tuple[torch.Tensor, ...]:
        return gradients(solve(module, x, METHODS[name]).states)

    exact, ours = gradients(module(x)[0]), run_ours()
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True))
    assert error < GRADIENT_ERROR
    peer: list[float] = []

    def run_peer() -> None:
        start = time.perf_counter()
        gradients(module(x)[0])
        peer.append(time.perf_counter() - start)

    benchmark.pedantic(run_ours, setup=run_peer, rounds=5, warmup_rounds=1)
    median = benchmark.stats.stats.median
    benchmark.extra_info.update(
        T=length, D=width, batch=1, error=error, gate=GRADIENT_ERROR, ours_ms=1e3 * median,
        peer_ms=1e3 * statistics.median(peer), ratio=statistics.median(peer) / median,
        bar=bar if name == "Newton()" else None, method=name,
    )  # fmt: skip


@pytest.mark.parametrize("tile", [14, 15, 16, 17, 18, 19])
def test_tile(benchmark: Any, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Why the tiles of the loop have the size that they have: T = 100,000, D = 8, without compiled kernels."""
    monkeypatch.setattr("lds_iter.loop.tiles.TILE_ELEMENTS", 1 << tile)
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")
    module, x = gru(100_000, 8, 1)
    with torch.no_grad():
        solution = solve(module, x, li.QuasiNewton())
        assert float((solution.states - module(x)[0]).abs().max()) < ERROR
        benchmark.pedantic(lambda: solve(module, x, li.QuasiNewton()), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(tile=tile, ours_ms=1e3 * benchmark.stats.stats.median)


NEWTON_MILLION = """
import json, re, time, torch
import lds_iter as li
from bench.speed.measure import gru, solve
def peak():  # not ru_maxrss, which a child inherits from its parent
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
module, x = gru(1_000_000, 16, 1)
before = peak()
with torch.no_grad():
    start = time.perf_counter()
    solution = solve(module, x, li.Newton(), window={window})
    seconds = time.perf_counter() - start
    after = peak()
    error = float((solution.states - module(x)[0]).abs().max())
assert solution.converged and error < 5e-5
print(json.dumps(dict(
    seconds=seconds, peak_mib=after / 1024, before_mib=before / 1024, error=error,
    iterations=int(solution.iterations), evaluations=float(solution.evaluations) / 1_000_000,
)))
"""


@pytest.mark.parametrize("window", [65_536])
def test_newton_on_a_million_steps(benchmark: Any, window: int) -> None:
    """T = 1,000,000, D = 16: the dense Jacobians alone would be 1 GiB; the whole process stays below 2 GiB."""
    seen: dict[str, float] = {}

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", NEWTON_MILLION.format(window=window)], capture_output=True, text=True, check=True
        )
        seen.update(json.loads(done.stdout))

    benchmark.pedantic(run, rounds=1)
    assert seen["peak_mib"] < 2048
    benchmark.extra_info.update(T=1_000_000, D=16, window=window, bar=2048, **seen)
