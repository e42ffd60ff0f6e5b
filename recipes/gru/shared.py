"""A training whose time steps several ranks share: `torchrun --nproc-per-node 2 -m recipes.gru --time-shards 2`.

The ranks are a mesh of batch and time. Each has its time steps of its part of every batch; DDP, by Lightning's Fabric,
averages gradients over all ranks. A loss is the mean over the rank's own time steps, weighted so that this average is
the gradient of the mean over all of them, however unevenly they are shared out. Checkpoints are those of
torch.distributed.checkpoint, which any number of ranks can read.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from recipes import files
from recipes.devices import put
from recipes.gru.data import InOrder, Shuffled
from recipes.gru.model import SeriesNetwork
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.tasks import Regression, Series
from recipes.gru.training import CLIP, Limits, Setup, SetupChanged, network


def world_size() -> int:
    """The number of processes that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_shards(shards: int, solver: str, setup: Setup) -> None:
    """Check that the ranks can be shared out.

    Raises:
        ValueError: says what to type.
    """
    ranks = world_size()
    if ranks % shards:
        raise ValueError(
            f"--time-shards {shards} must divide the {ranks} process(es); type torchrun --nproc-per-node {shards} -m "
            f"recipes.gru --time-shards {shards}. The other factor shares out the batch."
        )
    if setup.batch % (ranks // shards):
        raise ValueError(f"--batch {setup.batch} must be a multiple of the {ranks // shards} ranks that share it.")
    if solver == "torch":
        raise ValueError("--solver torch evaluates all time steps in one process; leave --time-shards out.")


@dataclass
class SharedRun:
    """A training on the ranks of a mesh.

    Attributes:
        fabric: of Lightning, launched.
        mesh: of batch and time.
        model: the network, with the layers' `mesh` set.
        optimizer: Adam.
        series, setup: what is learnt, and what decides the result.
        folder: of checkpoints and `metrics.csv`.
    """

    fabric: Fabric
    mesh: DeviceMesh
    model: SeriesNetwork
    optimizer: torch.optim.Optimizer
    series: Series
    setup: Setup
    folder: Path

    @staticmethod
    def begin(
        series: Series, setup: Setup, limits: Limits, options: Options, *, solver: str, shards: int, folder: Path
    ) -> SharedRun:
        """Start the process group and make the network, the same on every rank.

        Raises:
            ValueError: for a task without a target at every time step.
        """
        if not isinstance(series.task, Regression):
            raise ValueError("--time-shards needs a target at every time step, as --data glucose has it.")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        accelerator = "cpu" if limits.device == "auto" else limits.device
        fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=world_size() // here, strategy="ddp")
        fabric.launch()
        names = ("batch", "time")
        mesh = init_device_mesh(fabric.device.type, (world_size() // shards, shards), mesh_dim_names=names)
        model = network(series, SOLVERS[solver], setup, options)
        model.gru.mesh = mesh["time"]  # pyright: ignore[reportAttributeAccessIssue]
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), setup.learning_rate)
        return SharedRun(fabric, mesh, model, optimizer, series, setup, folder)

    def train(self, limits: Limits, *, resume: bool) -> list[dict[str, float]]:
        """Train to the limits, with a checkpoint at the end of every epoch.

        Returns:
            For every step its number and loss; for every epoch the mean squared error on the held-out samples.

        Raises:
            SetupChanged: when the run to resume began with another `Setup`.
        """
        step = self._load() if resume else 0
        model, optimizer = self.fabric.setup(self.model, self.optimizer)
        loader = Shuffled(self.series.train, self.setup.batch, self.setup.seed, lambda: step)
        last = limits.epochs * len(loader)
        last = last if limits.steps is None else min(last, limits.steps)
        rows: list[dict[str, float]] = []
        while step < last:
            losses: list[Tensor] = []
            for _, x, y in loader:
                loss = self._loss(model, self._part(x), self._part(y), x.shape[1])
                optimizer.zero_grad()
                self.fabric.backward(loss)
                self.fabric.clip_gradients(model, optimizer, max_norm=CLIP)
                optimizer.step()
                step += 1
                losses.append(self._mean(loss))
                if step == last:
                    break
            means = torch.stack(losses).tolist()
            rows += [{"step": number, "loss": mean} for number, mean in enumerate(means, step + 1 - len(means))]
            rows[-1]["held_out_loss"] = self._held_out()
            self._save(step)
            self._write(rows)
        return rows

    def _part(self, x: Tensor) -> Tensor:
        """The sequences and time steps of this rank, of `(B, T, features)`."""
        (batch, time), (row, column) = self.mesh.shape, self.mesh.get_coordinate() or (0, 0)
        return put(x.tensor_split(batch)[row].tensor_split(time, 1)[column], self.fabric.device)

    def _loss(self, model: torch.nn.Module, x: Tensor, y: Tensor, length: int) -> Tensor:
        """The loss of this rank's time steps, of which the mean over all ranks is that of all."""
        return self.series.task.loss(model(x), y) * (x.shape[1] * self.mesh.shape[1] / length)

    def _mean(self, loss: Tensor) -> Tensor:
        """The mean over all ranks, a number on the device."""
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total / world_size()

    def _held_out(self) -> float:
        """The loss on the held-out samples; ranks that share the batch all evaluate the same."""
        with torch.no_grad():
            losses = [self._mean(self._loss(self.model, x, y, length)) for x, y, length in self._held_out_parts()]
        return sum(torch.stack(losses).tolist()) / len(losses)

    def _held_out_parts(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        shards, column = self.mesh.shape[1], (self.mesh.get_coordinate() or (0, 0))[1]
        for _, *both in InOrder(self.series.held_out, 1):
            x, y = (put(one.tensor_split(shards, 1)[column], self.fabric.device) for one in both)
            yield x, y, both[0].shape[1]

    def _save(self, step: int) -> None:
        """Write a checkpoint; then remove the one before it."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        save({"model": model, "optimizer": optimizer}, checkpoint_id=self.folder / f"step-{step:06d}")
        if self.fabric.is_global_zero:
            files.write(self.folder / "setup.json", json.dumps(asdict(self.setup)))
            for old in whole_checkpoints(self.folder)[:-1]:
                shutil.rmtree(old)
        dist.barrier()

    def _load(self) -> int:
        """Read the last checkpoint; the number of its step."""
        known, ours = json.loads((self.folder / "setup.json").read_text()), asdict(self.setup)
        changed = [f"{name} = {value}, not {ours[name]}" for name, value in known.items() if value != ours[name]]
        if changed:
            raise SetupChanged(f"The run to resume began with {'; '.join(changed)}. Type what it began with.")
        path = whole_checkpoints(self.folder)[-1]
        model, optimizer = get_state_dict(self.model, self.optimizer)
        load({"model": model, "optimizer": optimizer}, checkpoint_id=path)
        set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer)
        return int(path.name.removeprefix("step-"))

    def _write(self, rows: list[dict[str, float]]) -> None:
        """The steps of this start of the run, as `metrics.csv`."""
        if self.fabric.is_global_zero:
            with files.whole(self.folder / "metrics.csv") as fresh, fresh.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["step", "loss", "held_out_loss"])
                writer.writeheader()
                writer.writerows(rows)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to the end, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/.metadata"))
