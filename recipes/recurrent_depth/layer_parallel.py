"""Train an ordinary stack for layers side by side: `python -m recipes.recurrent_depth.layer_parallel`.

A residual stack, `h_t = h_{t-1} + g_t(h_{t-1})`, is a recurrence over depth. One iteration of `li.Picard()` on it is

    h_t <- h_0 + sum over i <= t of g_i(guess of h_{i-1})

with all layers side by side: the identity-Newton step of "layer-parallel" models (arXiv 2605.17842). Weights as they
come need as many iterations as they have layers. Here training asks for fewer, by a penalty on how far `k` iterations
from `h_0` are off at the last layer:

    loss = cross-entropy(h_T) + weight * |h_T^(k) - h_T|^2 / |h_T|^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

import lds_iter as li
from recipes.devices import CPU, DeviceName, device_of, put
from recipes.recurrent_depth.model import Block, Shape
from recipes.recurrent_depth.text import encode, topics
from recipes.recurrent_depth.train import Pieces

CONTEXT, BATCH, RATE = 64, 16, 3e-3


@dataclass(frozen=True)
class Penalty:
    """What training asks of the layers.

    Attributes:
        weight: of the penalty; 0 for ordinary training.
        iterations: k, after which the last layer should be right.
    """

    weight: float = 0.0
    iterations: int = 1


class Layer(nn.Module):
    """One residual layer: `(..., L, width)` to the same."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.block = nn.RMSNorm(shape.width, eps=1e-6), Block(shape)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.block(self.norm(h), torch.arange(h.shape[-2], device=h.device))


class Stack(nn.Module):
    """A language model of `depth` residual layers."""

    def __init__(self, depth: int, shape: Shape) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(shape.vocabulary, shape.width), nn.RMSNorm(shape.width, eps=1e-6)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(depth))
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def logits(self, h: Tensor) -> Tensor:
        """From the state above the last layer."""
        return self.head(self.norm(h))

    def forward(self, tokens: Tensor) -> Tensor:
        """The state above the last layer, layer by layer."""
        h = self.embedding(tokens)
        for layer in self.layers:
            h = layer(h)
        return h


def side_by_side(layers: Sequence[nn.Module] | nn.ModuleList, h0: Tensor, iterations: int) -> Tensor:
    """The last state after some Picard iterations from `h0`, for training: differentiable through the iterations."""
    guess = [h0] * len(layers)
    last = h0
    for _ in range(iterations):
        updates = [layer(h) - h for layer, h in zip(layers, guess, strict=True)]
        states = [h0, *(h0 + total for total in torch.stack(updates).cumsum(0))]
        guess, last = states[:-1], states[-1]
    return last


def train(
    depth: int, steps: int, penalty: Penalty, *, width: int = 64, seed: int = 0, device: torch.device = CPU
) -> Stack:
    """A stack trained on the topics of pydoc."""
    torch.manual_seed(seed)
    with CPU:
        model = Stack(depth, Shape(width=width, heads=4, expansion=2))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    pieces = Pieces(encode(topics()[0]), CONTEXT, steps * BATCH, seed)
    for step in range(steps):
        batch = put(torch.stack([pieces[step * BATCH + i] for i in range(BATCH)]), device)
        tokens, target = batch[:, :-1], batch[:, 1:]
        last = model(tokens)
        loss = functional.cross_entropy(model.logits(last).flatten(0, 1), target.flatten())
        if penalty.weight:
            ahead = side_by_side(model.layers, model.embedding(tokens), penalty.iterations)
            loss = loss + penalty.weight * (ahead - last).square().mean() / last.square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def losses(model: Stack, tokens: Tensor, iterations: Sequence[int]) -> dict[int, float]:
    """Held-out loss in nats per character after so many iterations of `li.Picard()`, and layer by layer (0).

    Args:
        model: which one.
        tokens: of the held-out text, on the device of the model.
        iterations: so many.
    """
    pieces = tokens[: (len(tokens) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    read, target = pieces[:, :-1], pieces[:, 1:].flatten()
    problem = li.depth.loop(list(model.layers), model.embedding(read))
    found = {0: model(read)}
    for count in iterations:
        solution = problem.solve(li.Picard(), max_iters=count, throw=False)
        found[count] = problem.unflatten(solution.states[-1])
    entropy = functional.cross_entropy
    return {count: float(entropy(model.logits(h).flatten(0, 1), target)) for count, h in found.items()}


def main(
    depth: Annotated[int, typer.Option(min=2, help="Layers.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 400,
    weights: Annotated[str, typer.Option(help="Of the penalty, comma-separated; 0 is ordinary training.")] = "0,1",
    iterations: Annotated[int, typer.Option(min=1, help="Iterations that the penalty asks for.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads for torch.")] = 1,
    device: DeviceName = "cpu",
) -> None:
    """Train with and without the penalty; print the held-out loss after 1, 2, ... iterations and layer by layer."""
    place = device_of(device)
    torch.set_num_threads(threads)
    held_out = encode(topics()[1])[:8_000].to(place)
    counts = [count for count in (1, 2, 3, 4) if count < depth]
    for weight in [float(part) for part in weights.split(",")]:
        model = train(depth, steps, Penalty(weight, iterations), device=place)
        found = losses(model, held_out, counts)
        listed = ", ".join(f"{count}: {found[count]:.3f}" for count in counts)
        print(f"penalty {weight:g}: layer by layer {found[0]:.3f}; after iterations {listed}", flush=True)


if __name__ == "__main__":
    typer.run(main)
