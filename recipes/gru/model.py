"""The network, its training step, and what is logged of each."""

from __future__ import annotations

from contextlib import nullcontext

import pytorch_lightning as pl
import torch
from torch import Tensor

import lds_iter as li
from recipes.gru.data import Batch
from recipes.gru.tasks import AbstractTask


class SeriesNetwork(pl.LightningModule):
    """A stack of GRU layers and a linear head.

    Logs for every step: `loss`; the most iterations that each layer took, `iterations_1` and so on; the largest
    `residual`; `fell_back`, 1 where a layer had to use torch's kernel. For every epoch: `held_out_loss` and
    `held_out_measure`.

    Args:
        gru: `batch_first`.
        task: what is learnt.
        outputs: of the head.
        learning_rate: of Adam.
    """

    def __init__(self, gru: torch.nn.GRU, task: AbstractTask, outputs: int, learning_rate: float) -> None:
        super().__init__()
        self.gru = gru
        self.head = torch.nn.Linear(gru.hidden_size, outputs)
        self._task, self._learning_rate = task, learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, features)` to what the task's loss takes."""
        states, _ = self.gru(x)
        return self.head(self._task.read(states))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        names, x, target = batch
        loss = self._task.loss(self._named(names, x), target)
        self.log("loss", loss.detach(), prog_bar=True, on_step=True, on_epoch=False)
        for name, value in self._account().items():
            self.log(name, value, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        names, x, target = batch
        output = self._named(names, x)
        self.log("held_out_loss", self._task.loss(output, target), prog_bar=True, batch_size=len(names))
        self.log("held_out_measure", self._task.measure(output, target), batch_size=len(names))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self._learning_rate)

    def _named(self, names: Tensor, x: Tensor) -> Tensor:
        """Forward, with the samples named for a warm start where there is one."""
        memory = self.gru.warm_start if isinstance(self.gru, li.nn.GRU) else None
        with nullcontext() if memory is None else memory.samples(names):
            return self(x)

    def _account(self) -> dict[str, Tensor | float]:
        """How the layers were solved, in numbers on the device; nothing when torch evaluated them."""
        if not isinstance(self.gru, li.nn.GRU):
            return {}
        solutions = self.gru.last_solution
        counts = {f"iterations_{n}": s.iterations.max().float() for n, s in enumerate(solutions, 1)}
        largest = [solution.residual.max() for solution in solutions]
        residual = torch.stack(largest).max() if largest else float("nan")
        solved = bool(solutions) and all(solution.converged for solution in solutions)
        return {**counts, "residual": residual, "fell_back": float(not solved)}
