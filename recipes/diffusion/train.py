"""Train the class-conditional network on scikit-learn's digits: `python -m recipes.diffusion.train`.

Writes a folder that diffusers reads with `from_pretrained`: a `UNet2DModel` of 0.7 million parameters in half
precision, and the scheduler it was trained under. Ten minutes on one core with the defaults.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import typer
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from recipes.command_line import in_one_line
from recipes.devices import DeviceName, device_of, of_trainer, pins
from recipes.diffusion.choices import DIGITS, NO_CLASS
from recipes.files import whole


def digits() -> TensorDataset:
    """scikit-learn's 1797 real handwritten digits: images `(1, 8, 8)` in [-1, 1], and their classes."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32, device="cpu").unsqueeze(1) / 8 - 1
    return TensorDataset(images, torch.tensor(data.target, device="cpu"))


def network() -> UNet2DModel:
    """The architecture: two resolutions, 8x8 and 4x4, 32 and 64 channels, attention at 4x4."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=NO_CLASS + 1,
    )


class Denoiser(pl.LightningModule):
    """Predicts the noise in a noised digit; one label in ten is hidden, so that guidance works."""

    def __init__(self, steps: int, rate: float = 2e-3, decay: float = 0.995) -> None:
        super().__init__()
        self.unet, self.steps, self.rate, self.decay = network(), steps, rate, decay
        self.average = copy.deepcopy(self.unet).requires_grad_(False)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, classes = batch
        hidden = torch.rand(len(images), device=images.device) < 0.1
        noise, time = torch.randn_like(images), torch.randint(0, 1000, (len(images),), device=images.device)
        noisy: Any = self.scheduler.add_noise(images, noise, time)  # pyright: ignore[reportArgumentType]
        predicted = self.unet(noisy, time, class_labels=classes.masked_fill(hidden, NO_CLASS)).sample
        loss = functional.mse_loss(predicted, noise)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.unet.parameters(), strict=True):
                mean.lerp_(now, 1 - self.decay)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.unet.parameters(), self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=self.steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@in_one_line
def main(steps: int = 3000, batch: int = 128, seed: int = 0, folder: Path = DIGITS, device: DeviceName = "cpu") -> None:
    """Train for so many steps and write the averaged weights to a folder."""
    place = device_of(device)
    torch.set_num_threads(1)
    pl.seed_everything(seed)
    data = digits()
    sampler = RandomSampler(data, num_samples=steps * batch)
    loader = DataLoader(data, batch, sampler=sampler, pin_memory=pins(place))
    denoiser = Denoiser(steps)
    trainer = pl.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, **of_trainer(place))
    trainer.fit(denoiser, loader)
    with tempfile.TemporaryDirectory() as fresh:
        denoiser.average.half().save_pretrained(Path(fresh) / "unet", variant="fp16")
        denoiser.scheduler.save_pretrained(Path(fresh) / "scheduler")
        for made in Path(fresh).glob("*/*"):
            with whole(folder / made.relative_to(fresh)) as place:
                shutil.copyfile(made, place)


if __name__ == "__main__":
    typer.run(main)
