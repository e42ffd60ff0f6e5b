"""Checkpoints that are whole at every moment, and that can run no code when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from recipes.files import whole


class WholeCheckpoints(CheckpointIO):
    """How a trainer writes and reads its checkpoints.

    Lightning's own writer makes a temporary file in the system's folder for such, and moves it. From one disk to
    another that is a copy, and a process that is killed then leaves half a checkpoint in place of the last one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole(Path(path)) as fresh:
            torch.save(checkpoint, fresh)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
