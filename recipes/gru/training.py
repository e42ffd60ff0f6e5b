"""A run: the trainer with its loggers and checkpoints, from the beginning or from where it was interrupted."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger

from recipes.gru.checkpoints import WholeCheckpoints
from recipes.gru.data import SeriesData
from recipes.gru.model import SeriesNetwork
from recipes.gru.solvers import AbstractSolver, Options
from recipes.gru.tasks import Series

CLIP = 1.0
"""Largest norm of the gradient of all parameters."""


@dataclass(frozen=True)
class Setup:
    """What decides the result of a training, kept in its checkpoints.

    Attributes:
        data: what `--data` said.
        length: time steps per sample.
        crops: how many samples a long record is cut into.
        width: of every layer.
        layers: how many.
        batch: samples per step.
        learning_rate: of Adam.
        seed: of the weights and the order of the batches.
    """

    data: str = "glucose"
    length: int = 17_984
    crops: int = 8
    width: int = 32
    layers: int = 5
    batch: int = 1
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Limits:
    """When to stop, and where to compute.

    Attributes:
        epochs: passes through the training samples.
        steps: stop after so many steps even so; None for no such limit.
        device: `cpu`, `cuda` or `auto`.
    """

    epochs: int
    steps: int | None = None
    device: str = "auto"


class SetupChanged(ValueError):
    """A run cannot be resumed with other settings than it began with."""


class StepClock(Callback):
    """Logs `seconds`, the time spent in training steps since the beginning of the run, interruptions left out."""

    def __init__(self) -> None:
        self._seconds, self._started = 0.0, 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._seconds += time.perf_counter() - self._started
        # float64, so that the sum of many steps keeps its milliseconds
        pl_module.log(
            "seconds", torch.tensor(self._seconds, dtype=torch.float64, device="cpu"), on_step=True, on_epoch=False
        )

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._seconds = state_dict["seconds"]


class KeepSetup(Callback):
    """Keeps the `Setup` in every checkpoint."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._setup)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ours = asdict(self._setup)
        changed = [f"{name} = {value}, not {ours[name]}" for name, value in state_dict.items() if value != ours[name]]
        if changed:
            raise SetupChanged(f"The run to resume began with {'; '.join(changed)}. Type what it began with.")


def network(series: Series, solver: AbstractSolver, setup: Setup, options: Options) -> SeriesNetwork:
    """The network as it is before the first step; the same weights whatever the solver."""
    torch.manual_seed(setup.seed)
    gru = solver.gru(series.features, setup.width, setup.layers, options)
    return SeriesNetwork(gru, series.task, series.outputs, setup.learning_rate)


def last_checkpoint(folder: Path) -> Path:
    """Where a run in `folder` keeps the state after its latest step."""
    return folder / "checkpoints" / "last.ckpt"


def train(
    model: SeriesNetwork, series: Series, setup: Setup, limits: Limits, *, folder: Path, callbacks: list[Callback]
) -> None:
    """Run to the limits; from the last checkpoint in `folder` where there is one, from the beginning where not.

    Leaves in `folder`: `checkpoints/last.ckpt` of the latest step, `checkpoints/best.ckpt` of the lowest held-out loss,
    and `version_N/metrics.csv`, one for every time that the run was started.

    Args:
        callbacks: further ones, such as a progress bar.

    Raises:
        SetupChanged: when the run in `folder` began with another `Setup`.
    """
    checkpoint = last_checkpoint(folder)
    with warnings.catch_warnings():
        # Lightning 2.6 makes its own use of a class that torch 2.13 deprecates; nothing a user can change
        warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
        # a resumed run goes on in the folder of its checkpoints, which is what this one warns of
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* is not empty", category=UserWarning)
        trainer = _trainer(setup, limits, folder, callbacks)
        trainer.fit(model, datamodule=SeriesData(series, setup.batch, setup.seed), ckpt_path=_existing(checkpoint))


def _existing(path: Path) -> str | None:
    return str(path) if path.is_file() else None


def _trainer(setup: Setup, limits: Limits, folder: Path, callbacks: list[Callback]) -> pl.Trainer:
    checkpoints = str(last_checkpoint(folder).parent)
    latest = ModelCheckpoint(checkpoints, "last", every_n_train_steps=1, enable_version_counter=False)
    best = ModelCheckpoint(
        checkpoints, "best", monitor="held_out_loss", enable_version_counter=False, save_on_train_epoch_end=False
    )
    bars = any(isinstance(callback, RichProgressBar) for callback in callbacks)
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(limits.device, limits.device),
        devices=1,
        max_epochs=limits.epochs,
        max_steps=-1 if limits.steps is None else limits.steps,
        gradient_clip_val=CLIP,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=bars,
        plugins=[WholeCheckpoints()],
        logger=CSVLogger(str(folder), name="", flush_logs_every_n_steps=1),
        callbacks=[StepClock(), KeepSetup(setup), latest, best, *callbacks],
    )
