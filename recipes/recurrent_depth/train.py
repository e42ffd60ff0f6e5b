"""Train the recurrent-depth language model: `python -m recipes.recurrent_depth.train`.

Each batch draws a depth R. By default the first R - 4 steps of the core run without a graph, and the last four are
backpropagated through (truncated backpropagation, as Huginn is trained). With `--gradient implicit` the core is a
recurrence over depth, solved in parallel, and `li.Implicit` gives the exact gradient of all R steps; what it keeps are
the states, not the graph. A penalty keeps the core contracting where it ends up:

    loss = cross-entropy(coda(h_R)) + w * max(0, |h_R - h_{R-1}| / |h_{R-1} - h_{R-2}| - target)^2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import lds_iter as li
from recipes.command_line import in_one_line
from recipes.devices import DeviceName, device_of, of_trainer, pins
from recipes.recurrent_depth.model import WEIGHTS, RecurrentDepth, Shape, save
from recipes.recurrent_depth.text import bigram_loss, encode, topics

DEPTHS = (3, 4, 5, 6, 8, 12)
"""The depths a batch draws from."""
TRUNCATION = 4
"""Steps of the core that truncated backpropagation goes through."""
SOLVED = 1e-4
"""Tolerance of solves in training, of states of order 1: far below the noise of a batch."""
States = Callable[[RecurrentDepth, Tensor, int], list[Tensor]]
"""From a model, tokens `(B, L)` and a depth R >= 3 to the last states of the core, at least three, `(B, L, width)`."""
EVALUATED = (1, 2, 4, 8, 16, 64)
"""The depths at which the held-out loss is reported."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch: sequences in a batch.
        context: characters in a sequence.
        rate: the largest learning rate, of a one-cycle schedule.
        penalty: `w` of the module's docstring.
        contraction: `target` of the module's docstring.
        states: how the last states of the core and their gradient come about: `unroll`, truncated, or `solved`.
    """

    steps: int = 1600
    batch: int = 24
    context: int = 128
    rate: float = 4e-3
    penalty: float = 1.0
    contraction: float = 0.5
    states: States | None = None


class Pieces(Dataset[Tensor]):
    """Random stretches of a text, one more character than the context; a function of the seed and the index alone."""

    def __init__(self, tokens: Tensor, context: int, count: int, seed: int) -> None:
        self._tokens, self._context = tokens, context
        generator = torch.Generator("cpu").manual_seed(seed)
        self._starts = torch.randint(len(tokens) - context, (count,), generator=generator, device="cpu").tolist()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Tensor:
        return self._tokens[self._starts[index] : self._starts[index] + self._context + 1]


class Training(pl.LightningModule):
    """The loss and the optimiser of a `RecurrentDepth`."""

    def __init__(self, model: RecurrentDepth, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        depth = DEPTHS[int(torch.randint(len(DEPTHS), (), device="cpu"))]
        states = (self.recipe.states or unroll)(self.model, batch[:, :-1], depth)
        loss = functional.cross_entropy(self.model.coda(states[-1]).flatten(0, 1), batch[:, 1:].flatten())
        last, before = ((b - a).norm() for a, b in ((states[-2], states[-1]), (states[-3], states[-2])))
        ratio = last / before.clamp(min=1e-6)
        self.log_dict({"loss": loss, "ratio": ratio}, prog_bar=True)
        if batch_idx % 50 == 0:
            print(f"step {batch_idx:5d}  loss {loss.item():.3f}  ratio {ratio.item():.2f}  depth {depth}", flush=True)
        return loss + self.recipe.penalty * (ratio - self.recipe.contraction).relu().square()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.recipe.rate, betas=(0.9, 0.98), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.recipe.rate, self.recipe.steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def unroll(model: RecurrentDepth, tokens: Tensor, depth: int, truncation: int = TRUNCATION) -> list[Tensor]:
    """The last states of the core, `min(depth, truncation) + 1` of them, with a graph through those steps only."""
    e = model.prelude(tokens)
    h = torch.zeros_like(e)
    with torch.no_grad():
        for _ in range(depth - truncation):
            h = model.core(h, e)
    states = [h]
    for _ in range(min(depth, truncation)):
        states.append(model.core(states[-1], e))
    return states


def solved(model: RecurrentDepth, tokens: Tensor, depth: int) -> list[Tensor]:
    """The last three states of the core by a solve over depth, with the exact gradient of all steps by `li.Implicit`.

    Where a solve stops short of its tolerance, as a core that does not contract yet may make it, T iterations have
    passed and the states are exact all the same.
    """
    e = model.prelude(tokens)
    problem = li.depth.injected(model.core, torch.zeros_like(e), e, depth)
    adjoint = li.Implicit(li.Jacobi(), rtol=SOLVED, atol=SOLVED)
    states = problem.solve(li.Jacobi(), rtol=SOLVED, atol=SOLVED, adjoint=adjoint).states
    return list(problem.unflatten(states[-3:]))


@torch.no_grad()
def held_out_loss(model: RecurrentDepth, tokens: Tensor, depth: int, context: int = 128) -> float:
    """Mean cross-entropy in nats per character over the text, in stretches of `context` characters."""
    pieces = tokens[: (len(tokens) - 1) // context * context + 1].unfold(0, context + 1, context)
    losses = []
    for part in pieces.split(64):
        logits = model(part[:, :-1], depth)
        losses.append(functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return float(torch.stack(losses).sum() / (pieces.shape[0] * context))


class Gradient(StrEnum):
    """What `--gradient` takes."""

    truncated = "truncated"
    implicit = "implicit"


@in_one_line
def main(
    steps: Annotated[int, typer.Option(min=10, help="Optimiser steps.")] = Recipe.steps,
    width: Annotated[int, typer.Option(min=8, help="Width of the model, a multiple of 8.")] = Shape.width,
    threads: Annotated[int, typer.Option(min=1, help="Threads for torch.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, batches and depths.")] = 0,
    gradient: Annotated[Gradient, typer.Option(help="Of the last four steps, or of all.")] = Gradient.truncated,
    out: Annotated[Path, typer.Option(help="Where to write the weights.")] = WEIGHTS,
    device: DeviceName = "cpu",
) -> None:
    """Train on the topics of pydoc, report the held-out loss over depth and a bigram model's, save the weights."""
    place = device_of(device)
    torch.set_num_threads(threads)
    pl.seed_everything(seed, verbose=False)
    training, held_out = (encode(text) for text in topics())
    states = solved if gradient is Gradient.implicit else unroll
    recipe, model = Recipe(steps=steps, states=states), RecurrentDepth(Shape(width=width))
    pieces = Pieces(training, recipe.context, recipe.steps * recipe.batch, seed)
    trainer = pl.Trainer(
        max_steps=recipe.steps,
        **of_trainer(place),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Training(model, recipe), DataLoader(pieces, batch_size=recipe.batch, pin_memory=pins(place)))
    bigram = bigram_loss(training, held_out)
    model.eval().to(place)  # the trainer has left it on the CPU
    losses = {depth: held_out_loss(model, held_out.to(place), depth) for depth in EVALUATED}
    listed = ", ".join(f"{depth}: {loss:.3f}" for depth, loss in losses.items())
    print(f"held-out loss: bigram {bigram:.3f}; depth {listed}")
    facts = {
        "text": f"pydoc_data.topics of the standard library, {len(training)} characters",
        "steps": str(recipe.steps),
        "bigram": f"{bigram:.4f}",
        "losses": listed,
    }
    save(model, out, facts)
    print(out)


if __name__ == "__main__":
    typer.run(main)
