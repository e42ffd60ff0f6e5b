"""What came out, next to what the sequential loop draws; and the trajectory while it converges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.canvas import pyplot, save
from recipes.files import whole


def gallery(images: Tensor, path: Path) -> None:
    """A row of images `(B, C, H, W)` in [-1, 1]."""
    figure, axes = pyplot().subplots(1, len(images), figsize=(1.1 * len(images), 1.3), squeeze=False)
    for place, image in zip(axes[0], images, strict=True):
        place.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
        place.set(xticks=[], yticks=[])
    save(figure, path, dpi=110)


def comparison(sequential: Tensor, parallel: Tensor, path: Path, title: str) -> None:
    """Three rows of images `(B, C, H, W)` in [-1, 1]: sequential, parallel, and their difference, enlarged."""
    difference = parallel - sequential
    scale = float(difference.abs().max()) or 1.0
    figure, axes = pyplot().subplots(3, len(sequential), figsize=(1.1 * len(sequential) + 1.2, 4), squeeze=False)
    rows = (
        ("step by step", sequential),
        ("parallel", parallel),
        (f"difference\n(black to white:\n{2 * scale:.1e})", difference),
    )
    for line, (name, images) in zip(axes, rows, strict=True):
        bound = scale if images is difference else 1
        for place, image in zip(line, images, strict=True):
            place.imshow(_shown(image / bound), cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10)
    save(figure, path, dpi=110)


def film_strip(iterates: Sequence[Tensor], path: Path, columns: int = 5) -> None:
    """A line per round of one sample's trajectory `(T, C, H, W)`: each step's distance from its end, and images."""
    plt, rounds = pyplot(), len(iterates)
    figure = plt.figure(figsize=(5 + columns * 0.85, 0.85 * rounds + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4, columns * 0.85))
    away = torch.stack([(iterate - iterates[-1]).square().flatten(1).mean(1).sqrt() for iterate in iterates])
    ax = left.subplots()
    logarithms = away.clamp(1e-4, 1).log10().float().cpu()
    image = ax.imshow(logarithms, aspect="auto", cmap="magma", vmin=-4, vmax=0, interpolation="nearest")
    ax.set_yticks(range(rounds), ["guess", *(f"round {count}" for count in range(1, rounds))])
    ax.set(xlabel="step", title="distance from the final trajectory")
    left.colorbar(image, ax=ax, label="power of ten", aspect=30)
    chosen = _spread(len(iterates[0]), columns)
    panels = right.subplots(rounds, len(chosen), squeeze=False)
    for line, trajectory in zip(panels, iterates, strict=True):
        for place, picture in zip(line, trajectory[chosen], strict=True):
            place.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
    for place, step in zip(panels[0], chosen.tolist(), strict=True):
        place.set_title(f"step {step + 1}", fontsize=9)
    save(figure, path, dpi=110)


def animation(iterates: Sequence[Tensor], path: Path, columns: int = 5, enlarge: int = 14) -> None:
    """The images of the strip as a GIF, a frame per round."""
    from PIL import Image

    chosen = _spread(len(iterates[0]), columns)
    frames = []
    for trajectory in iterates:
        images = [_shown(image) for image in trajectory[chosen]]
        rest = [(0, 0)] * (images[0].ndim - 2)
        strip = np.concatenate([np.pad(image, [(0, 0), (0, 1), *rest], constant_values=0.5) for image in images], 1)
        pixels = np.kron(
            (255 * strip).astype(np.uint8), np.ones((enlarge, enlarge, *([1] * (strip.ndim - 2))), np.uint8)
        )
        frames.append(Image.fromarray(pixels))
    with whole(path) as fresh:
        frames[0].save(fresh, save_all=True, append_images=[*frames[1:], frames[-1], frames[-1]], duration=700, loop=0)


def _spread(length: int, columns: int) -> Tensor:
    """Which steps are shown: from the middle, before which an image is noise, to the last."""
    return torch.linspace(length // 2, length - 1, min(columns, length), device="cpu").round().long().unique()


def _shown(image: Tensor) -> np.ndarray:
    """`(C, H, W)` in [-1, 1] as an array in [0, 1]: gray for one channel, else the first three."""
    array = (image.float().cpu() / 2 + 0.5).clamp(0, 1)
    return array[0].numpy() if len(array) < 3 else array[:3].permute(1, 2, 0).numpy()
