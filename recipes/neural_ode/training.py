"""Training through all steps of the solution, with Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torchdiffeq
from torch import Tensor

import lds_iter as li
from recipes.devices import CPU, of_trainer, pins

Solver = Callable[..., Any]

SOLVERS: dict[str, Solver] = {"parallel": li.ode.odeint, "sequential": torchdiffeq.odeint}
"""All steps at once, and one after the other: the same steps and the same gradients, so the same training."""


class NeuralODE(pl.LightningModule):
    """Fit the solution of `func` to observed trajectories.

    Args:
        func: the network.
        times: of the observations, `(N)`.
        solve: an `odeint`.
        first: how many points to train on in the first epoch; all when None.
        growth: how many more in every further epoch.
        rate: of Adam.
    """

    def __init__(
        self, func: torch.nn.Module, times: Tensor, solve: Solver, *, first: int | None, growth: int, rate: float
    ) -> None:
        super().__init__()
        self.func, self.solve = func, solve
        self.times: Tensor
        self.register_buffer("times", times, persistent=False)  # which goes where the parameters go
        self.first, self.growth, self.rate = first, growth, rate
        self.losses: list[Tensor] = []

    @property
    def length(self) -> int:
        """The points of this epoch: the curriculum."""
        if self.first is None:
            return len(self.times)
        return min(len(self.times), self.first + self.growth * self.current_epoch)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The mean square error of trajectories `(B, N, D)`."""
        observed = batch[0].transpose(0, 1)[: self.length]
        found = self.solve(self.func, observed[0], self.times[: self.length], method="rk4")
        loss = (found - observed).square().mean()
        self.losses.append(loss.detach())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)


def train(
    func: torch.nn.Module, times: Tensor, states: Tensor, *, solver: str, epochs: int, batch: int,
    first: int | None = None, growth: int = 20, rate: float = 3e-3, device: torch.device = CPU,
) -> list[float]:  # fmt: skip
    """Train `func` on states `(N, count, D)`; returns the loss of every step."""
    data = torch.utils.data.TensorDataset(states.transpose(0, 1))
    module = NeuralODE(func, times, SOLVERS[solver], first=first, growth=growth, rate=rate)
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, **of_trainer(device),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=batch, pin_memory=pins(device)))
    return torch.stack(module.losses).tolist()
