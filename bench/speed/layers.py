"""The drop-in layers of `lds_iter.nn` against those of `torch.nn`, and a plain function against the Python loop.

Run by `python -m bench.speed`, with the same rules: a correctness gate first, then ours and the peer alternately.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import lds_iter as li

ROUNDS = 5

ERROR, GRADIENT_ERROR = 1e-4, 1e-3
"""Largest difference of outputs, and relative difference of gradients, at which a row is timed at all."""

LAYERS = [  # kind, D, T, batch, further arguments, threads of both sides (None: as many as there are)
    ("RNN", 8, 10_000, 1, {}, None),
    ("RNN", 32, 10_000, 1, {}, None),
    ("RNN", 64, 4_000, 1, {}, None),
    ("RNN", 8, 10_000, 1, {"nonlinearity": "relu"}, None),
    ("GRU", 8, 10_000, 1, {}, None),
    ("GRU", 16, 10_000, 1, {}, None),
    ("GRU", 64, 4_000, 1, {}, None),
    ("GRU", 16, 4_000, 8, {}, None),
    ("GRU", 16, 2_000, 32, {}, None),
    ("LSTM", 8, 10_000, 1, {}, None),
    ("LSTM", 16, 10_000, 1, {}, None),
    ("LSTM", 32, 10_000, 1, {}, None),
    ("LSTM", 8, 100_000, 1, {}, None),
    ("LSTM", 64, 4_000, 1, {}, None),
    ("LSTM", 8, 10_000, 8, {}, None),
    ("LSTM", 8, 10_000, 1, {}, 1),
    ("LSTM", 32, 10_000, 1, {}, 1),
    ("LSTM", 8, 10_000, 1, {"proj_size": 4}, None),
]


def alternately(benchmark: Any, ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, float]:
    """Time both in turn under pytest-benchmark; medians in milliseconds."""
    peer: list[float] = []

    def run_peer() -> None:
        start = time.perf_counter()
        theirs()
        peer.append(time.perf_counter() - start)

    benchmark.pedantic(ours, setup=run_peer, rounds=ROUNDS, warmup_rounds=1)
    median = benchmark.stats.stats.median
    return {
        "ours_ms": 1e3 * median,
        "peer_ms": 1e3 * statistics.median(peer),
        "ratio": statistics.median(peer) / median,
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "width", "length", "batch", "further", "threads"), LAYERS)
def test_layer(
    benchmark: Any,
    request: pytest.FixtureRequest,
    kind: str,
    width: int,
    length: int,
    batch: int,
    further: dict[str, Any],
    threads: int | None,
    training: bool,
) -> None:
    """A layer with the fixed method of its shape, and the layer of torch with the same weights."""
    torch.manual_seed(0)
    if threads is not None:
        request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
        torch.set_num_threads(threads)
    theirs = getattr(torch.nn, kind)(width, width, **further)
    ours = getattr(li.nn, kind)(width, width, **further, method=li.nn.fixed_method(theirs))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(length, batch, width)

    def forward(layer: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return layer(x)[0]

    def gradients(layer: torch.nn.Module) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(layer(x)[0].square().mean(), tuple(layer.parameters()))

    error = float((forward(ours) - forward(theirs)).abs().max())
    assert error < ERROR
    (solution,) = ours.last_solution
    assert solution.converged
    if training:
        pairs = zip(gradients(ours), gradients(theirs), strict=True)
        error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        assert error < GRADIENT_ERROR
    run = gradients if training else forward
    benchmark.extra_info.update(
        layer=kind, D=width, T=length, batch=batch, further=further, training=training, error=error, bar=None,
        method=str(ours.method), threads=torch.get_num_threads(), iterations=int(solution.iterations.max()),
        **alternately(benchmark, lambda: run(ours), lambda: run(theirs)),
    )  # fmt: skip


@pytest.mark.parametrize("length", [100, 1_000, 10_000])
def test_plain_function(benchmark: Any, length: int) -> None:
    """`tanh(W s + u)`, D = 8, by Newton with derivatives from torch.func, against the Python loop."""
    torch.manual_seed(0)
    weight = torch.randn(8, 8) * 0.2

    def f(s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(s @ weight.T + u)

    s0, inputs = torch.zeros(8), torch.randn(length, 8)
    solution, exact = li.solve(f, s0, inputs), li.sequential(f, s0, inputs)
    error = float((solution.states - exact).abs().max())
    assert error < ERROR
    benchmark.extra_info.update(
        T=length, error=error, iterations=int(solution.iterations), bar=None,
        **alternately(benchmark, lambda: li.solve(f, s0, inputs), lambda: li.sequential(f, s0, inputs)),
    )  # fmt: skip
