"""Training a layer of a cell on a real series, and the same layer one time step after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.cells.cells import CELLS
from recipes.devices import CPU


class Reader(torch.nn.Module):
    """A layer of a cell, and a linear reading of its states.

    Args:
        cell: its name in `CELLS`.
        features: of the input.
        units: of the cell.
        length: time steps, the budget of iterations, which always suffices.
    """

    def __init__(self, cell: str, features: int, units: int, length: int) -> None:
        super().__init__()
        kind, _ = CELLS[cell]
        self.layer = li.nn.Recurrent(kind(features, units), method=li.Newton(), max_iters=length)
        self.read = torch.nn.Linear(self.layer.cell.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From `(T, B, features)` to `(T, B, 1)`."""
        return self.read(self.layer(x)[0])


def one_by_one(cell: Any, x: Tensor) -> Tensor:
    """All states of a cell from a zero state, in a loop over time, `(T, B, D)`."""
    s, states = x.new_zeros(x.shape[1], cell.hidden_size), []
    knows = hasattr(cell, "linearize")
    u = cell.inputs(x) if knows else x
    for t in range(len(x)):
        s = cell(s[None], pytree.tree_map(lambda leaf: leaf[t : t + 1], u))[0] if knows else cell(u[t], s)  # noqa: B023
        states.append(s)
    return torch.stack(states)


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        losses: mean square error of every step.
        iterations: Newton iterations of every step, the most of the batch.
        held_out: mean square error on the held-out series.
        error: largest difference of its states from the loop's, in units of the largest state.
        seconds: of a forward on it, all time steps at once.
        loop_seconds: one after the other.
    """

    losses: list[float]
    iterations: list[int]
    held_out: float
    error: float
    seconds: float
    loop_seconds: float


def train(
    cell: str, x: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor], *, units: int, steps: int, rate: float = 0.02
) -> Trained:
    """Train with Adam, then compare with the loop on the held-out series.

    Args:
        cell: its name in `CELLS`.
        x, y: `(T, B, features)` and `(T, B, 1)`, on the device to train on.
        held_out: the same of series not trained on.
        units: of the cell.
        steps: of Adam.
        rate: of Adam.
    """
    torch.manual_seed(0)
    with CPU:
        model = Reader(cell, x.shape[-1], units, len(x))
    model.to(x.device)
    optimizer, losses, iterations = torch.optim.Adam(model.parameters(), rate), [], []
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        iterations.append(_iterations(model))
    x, y = held_out
    with torch.no_grad():
        begin = wall_clock(x)
        found = model.layer(x)[0]
        between = wall_clock(x)
        exact = one_by_one(model.layer.cell, x)
        end = wall_clock(x)
        error = float((found - exact).abs().max() / exact.abs().max())
        missed = float((model.read(found) - y).square().mean())
    iterations.append(_iterations(model))
    counts = torch.stack(iterations).tolist()
    return Trained(torch.stack(losses).tolist(), counts, missed, error, between - begin, end - between)


def _iterations(model: Reader) -> Tensor:
    """The most of the batch in the last forward; not read yet, which would wait for the device."""
    solution = model.layer.last_solution
    assert solution is not None
    return solution.iterations.max()
