"""Counts and times networks that run in parallel over depth, and trains one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recipes.recurrent_depth.deep_stacks import DeepStack, adjoint, mlp, residual

WIDTHS, DEPTHS, BATCH = (16, 32, 64), (64, 256, 1024), 4
KINDS = {"MLP": lambda depth: mlp(), "ResNet": residual}  # noqa: ARG005
GATE = 1e-4
"""Largest error of the last state against the layers one after the other at which a row is timed at all; signals are of
order 1, and a residual network of 1,024 layers adds up that many roundings."""


def row(kind: str, width: int, depth: int, rounds: int) -> dict[str, Any]:
    """One network: iterations forward and backward, errors, and times where `rounds` is not 0."""
    torch.manual_seed(0)
    stack, x = DeepStack(depth, width, KINDS[kind](depth)), torch.randn(BATCH, width)
    g = torch.randn(BATCH, width)
    with torch.no_grad():
        solution, exact = stack.solve(x), stack(x)
        backward = adjoint(stack, solution.states, x, g)
    error = float((solution.states[-1] - exact).abs().max())
    ours, theirs = (_gradient(stack, x, g, run) for run in (_parallel, _sequential))
    gradient_error = float((ours - theirs).norm() / theirs.norm())
    if error > GATE:
        raise RuntimeError(f"{kind}, D={width}, T={depth}: wrong by {error:.2g}, nothing to time.")
    found = {
        "kind": kind, "D": width, "T": depth, "batch": BATCH, "error": error, "gradient_error": gradient_error,
        "forward": solution.iterations.tolist(), "backward": backward.iterations.tolist(),
    }  # fmt: skip
    if rounds:
        with torch.no_grad():
            forward = _ratio(lambda: stack.solve(x), lambda: stack(x), rounds)
        train = _ratio(lambda: _gradient(stack, x, g, _parallel), lambda: _gradient(stack, x, g, _sequential), rounds)
        found |= {"forward_ms": forward, "training_ms": train}
    return found


def _parallel(stack: DeepStack, x: Tensor) -> Tensor:
    return stack.solve(x).states[-1]


def _sequential(stack: DeepStack, x: Tensor) -> Tensor:
    return stack(x)


def _gradient(stack: DeepStack, x: Tensor, g: Tensor, run: Callable[[DeepStack, Tensor], Tensor]) -> Tensor:
    return torch.autograd.grad((run(stack, x) * g).sum(), stack.weight)[0]


def _ratio(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> dict[str, float]:
    """Medians in milliseconds, alternately in one process, so that both see the same state of the machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for kept, run in zip(times, (ours, peer), strict=True):
            start = time.perf_counter()
            run()
            if number:  # the first of each warms up
                kept.append(1e3 * (time.perf_counter() - start))
    return {"ours": statistics.median(times[0]), "loop": statistics.median(times[1])}


class Classifier(torch.nn.Module):
    """Handwritten digits, 64 pixels, through a residual network: in, `depth` layers of one width, out."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.enter, self.leave = torch.nn.Linear(64, width), torch.nn.Linear(width, 10)
        self.stack = DeepStack(depth, width, residual(depth))

    def forward(self, x: Tensor, run: Callable[[DeepStack, Tensor], Tensor]) -> Tensor:
        return self.leave(run(self.stack, self.enter(x)))


def train(
    run: Callable[[DeepStack, Tensor], Tensor], steps: int, *, depth: int = 1024, width: int = 16, batch: int = 64
) -> list[float]:
    """Losses of a classifier trained by Adam on batches of scikit-learn's digits, the same batches every time."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = Classifier(depth, width)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,))
        loss = functional.cross_entropy(model(images[chosen], run), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
