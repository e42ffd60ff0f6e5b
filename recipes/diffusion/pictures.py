"""What came out, next to what the sequential loop draws; and the trajectory while it converges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.canvas import save


def gallery(images: Tensor, path: Path) -> None:
    """A row of images `(B, C, H, W)` in [-1, 1]."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(1.1 * len(images), 1.3), squeeze=False)
    for place, image in zip(axes[0], images, strict=True):
        place.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
        place.set(xticks=[], yticks=[])
    save(figure, path, dpi=110)


def comparison(sequential: Tensor, parallel: Tensor, path: Path, title: str) -> None:
    """Three rows of images `(B, C, H, W)` in [-1, 1]: sequential, parallel, and their difference, enlarged."""
    import matplotlib.pyplot as plt

    difference = parallel - sequential
    scale = float(difference.abs().max()) or 1.0
    figure, axes = plt.subplots(3, len(sequential), figsize=(1.1 * len(sequential) + 1.2, 4), squeeze=False)
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


def film_strip(iterates: Sequence[Tensor], path: Path, columns: int = 12) -> None:
    """A line per round: one sample's trajectory `(T, C, H, W)`, from the first step on the left to the image."""
    import matplotlib.pyplot as plt

    chosen = torch.linspace(0, len(iterates[0]) - 1, min(columns, len(iterates[0]))).round().long()
    figure, axes = plt.subplots(
        len(iterates), len(chosen), figsize=(0.8 * len(chosen) + 1, 0.8 * len(iterates) + 0.6), squeeze=False
    )
    for round_, (line, trajectory) in enumerate(zip(axes, iterates, strict=True)):
        for place, image in zip(line, trajectory[chosen], strict=True):
            place.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel("noise" if round_ == 0 else f"round {round_}", rotation=0, ha="right", va="center")
    for place, step in zip(axes[0], chosen.tolist(), strict=True):
        place.set_title(f"step {step + 1}", fontsize=7)
    save(figure, path, dpi=110)


def animation(iterates: Sequence[Tensor], path: Path, columns: int = 12, enlarge: int = 8) -> None:
    """The same as a GIF: a frame per round."""
    from PIL import Image

    chosen = torch.linspace(0, len(iterates[0]) - 1, min(columns, len(iterates[0]))).round().long()
    frames = []
    for trajectory in iterates:
        strip = np.concatenate([_shown(image) for image in trajectory[chosen]], 1)
        pixels = np.kron(
            (255 * strip).astype(np.uint8), np.ones((enlarge, enlarge, *([1] * (strip.ndim - 2))), np.uint8)
        )
        frames.append(Image.fromarray(pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=[*frames[1:], frames[-1], frames[-1]], duration=500, loop=0)


def _shown(image: Tensor) -> np.ndarray:
    """`(C, H, W)` in [-1, 1] as an array in [0, 1]: gray for one channel, else the first three."""
    array = (image.float().cpu() / 2 + 0.5).clamp(0, 1)
    return array[0].numpy() if len(array) < 3 else array[:3].permute(1, 2, 0).numpy()
