"""Train the sine wave generator and keep its weights: `python -m bench.edge.train_sine`.

The network of `bench.edge.sine` is trained as its source's is, as a density model: every observation of a noisy sine
wave is to be likely given those before it. That reads data, not its own output, so each layer's states come from
`li.nn.GRU`, parallel over time, in four to six iterations.

A wave of a thousand steps cannot be learned from scratch that way: the next observation is next to this one, and only
what the network remembers over hundreds of steps tells where on the wave it is. So it learns a wave of 20 steps first,
and is then slowed down: adding log 2 to the bias of the update gate makes the hidden state move half as fast, which
is nearly the same network at twice the period, and training goes on from there, up to a period of 640.

Deterministic given the seed, the thread count and the version of torch. Writes `bench/edge/sine.safetensors`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as lightning
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

import lds_iter as li
from bench.edge.sine import HIDDEN, WEIGHTS, SineGRU
from recipes.files import whole

NOISE = 0.02
"""Standard deviation of the observations about a wave of amplitude one."""
RATE = 1e-2
"""The highest learning rate."""
WAVES = 4
"""Waves in a batch, each with a phase of its own."""
FIRST_PERIOD, DOUBLINGS = 20, 5


class Waves(IterableDataset[Tensor]):
    """Batches of noisy sine waves of unit amplitude and random phase, `(steps + 1, WAVES, 1)`, without end."""

    def __init__(self, period: float, steps: int, seed: int) -> None:
        super().__init__()
        self._angles = 2 * math.pi * torch.arange(steps + 1).view(-1, 1, 1) / period
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            phase = 2 * math.pi * torch.rand(1, WAVES, 1, generator=self._generator)
            wave = torch.sin(self._angles + phase)
            yield wave + NOISE * torch.randn(wave.shape, generator=self._generator)


class Density(lightning.LightningModule):
    """The negative log-likelihood of the next observation, in nats, above that of the noise itself.

    Args:
        network: to train; its layer reads the waves in parallel over time.
        steps: of the optimizer.
        skip: observations at the beginning that do not count: the state is still empty.
    """

    def __init__(self, network: SineGRU, steps: int, skip: int) -> None:
        super().__init__()
        self.network, self.steps, self.skip = network, steps, skip

    def training_step(self, x: Tensor, _: int) -> Tensor:
        states = self.network.gru(x[:-1])[0]
        mean, scale = self.network.decoder(states).split(1, -1)
        scale = functional.softplus(scale) + 1e-5  # never exactly zero
        surprise = ((x[1:] - mean) / scale).square() / 2 + scale.log()
        loss = surprise[self.skip :].mean() - math.log(NOISE) - 0.5
        self.log("excess", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=self.steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(first_steps: int, steps: int, doublings: int = DOUBLINGS, seed: int = 0) -> SineGRU:
    """A trained network: `first_steps` of the optimizer at the first period, `steps` at each that follows."""
    lightning.seed_everything(seed, verbose=False)
    network = SineGRU(li.nn.GRU(1, HIDDEN, method=li.Newton()))  # `Auto` would choose by time: not repeatable
    for stage in range(doublings + 1):
        period = FIRST_PERIOD * 2**stage
        if stage:
            slow_down(network)
        count = steps if stage else first_steps
        waves = Waves(period, max(500, 3 * period), seed=1_000 * seed + stage)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=count,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(Density(network, count, skip=period // 4), DataLoader(waves, batch_size=None))
        print(f"period {period}: excess {float(trainer.callback_metrics['excess']):.3f} nats", flush=True)
    return network


def slow_down(network: SineGRU) -> None:
    """Halve the speed of the hidden state: `1 - sigmoid(a + log 2)` is half of `1 - sigmoid(a)` where that is small."""
    with torch.no_grad():
        network.gru.get_parameter("bias_hh_l0")[HIDDEN : 2 * HIDDEN] += math.log(2)


def main(
    first_steps: Annotated[int, typer.Option(help="optimizer steps at a period of 20")] = 1200,
    steps: Annotated[int, typer.Option(help="optimizer steps at every further period")] = 300,
    seed: Annotated[int, typer.Option(help="of the initial weights and the waves")] = 1,
    out: Annotated[Path, typer.Option(help="the file to write")] = WEIGHTS,
) -> None:
    """Train, and write the weights."""
    torch.set_num_threads(1)
    network = train(first_steps, steps, seed=seed)
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    with whole(out) as fresh:
        save_file(weights, fresh, metadata={"made_by": "python -m bench.edge.train_sine", "seed": str(seed)})


if __name__ == "__main__":
    typer.run(main)
