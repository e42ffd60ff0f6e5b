"""The batches, in an order that is a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from recipes.devices import CPU, pinned
from recipes.gru.tasks import Sample, Series, stack

Batch = tuple[Tensor, Tensor, Tensor]
"""The names of the samples, int64 `(B)`; the series `(B, T, features)`; the targets."""


class Shuffled:
    """The training batches of one epoch after another, each epoch in an order of its own.

    Where to begin is read off the trainer's count of steps, which a checkpoint restores, so a run that is resumed in
    the middle of an epoch sees the batches that it would have seen.

    Args:
        samples: to learn from.
        batch: samples in one.
        seed: of the order.
        steps_taken: gives the count of steps.
        device: where the batches, which are made on the CPU, will go.
    """

    def __init__(
        self, samples: list[Sample], batch: int, seed: int, steps_taken: Callable[[], int], device: torch.device = CPU
    ) -> None:
        self._samples, self._batch, self._seed, self._steps_taken = samples, batch, seed, steps_taken
        self._device = device

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self._steps_taken(), len(self))
        chance = torch.Generator("cpu").manual_seed(self._seed + 7919 * epoch)
        order = torch.randperm(len(self._samples), generator=chance, device="cpu")
        for names in order.split(self._batch)[done:]:
            yield _batch(self._samples, names, names, self._device)

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader can be resumed; there is nothing to keep besides the trainer's count."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `state_dict`."""


class InOrder:
    """The held-out batches, always the same; their names are negative."""

    def __init__(self, samples: list[Sample], batch: int, device: torch.device = CPU) -> None:
        self._samples, self._batch, self._device = samples, batch, device

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch)

    def __iter__(self) -> Iterator[Batch]:
        for names in torch.arange(len(self._samples), device="cpu").split(self._batch):
            yield _batch(self._samples, names, -1 - names, self._device)


def _batch(samples: list[Sample], chosen: Tensor, names: Tensor, device: torch.device) -> Batch:
    x, y = stack([samples[number] for number in chosen.tolist()])
    return pinned(names, device), pinned(x, device), pinned(y, device)


class SeriesData(pl.LightningDataModule):
    """A `Series`, batch by batch."""

    def __init__(self, series: Series, batch: int, seed: int) -> None:
        super().__init__()
        self._series, self._batch, self._seed = series, batch, seed

    def train_dataloader(self) -> Shuffled:
        return Shuffled(self._series.train, self._batch, self._seed, self._steps_taken, self._place)

    def val_dataloader(self) -> InOrder:
        return InOrder(self._series.held_out, self._batch, self._place)

    @property
    def _place(self) -> torch.device:
        return CPU if self.trainer is None else self.trainer.strategy.root_device

    def _steps_taken(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step
