# %% [markdown]
# # Draw digits with all denoising steps at once
#
# A diffusion model draws an image step by step, and each step waits for the one before. Here the
# steps are evaluated together, in a few rounds, and the image is the one that the scheduler
# itself would draw from the same noise.
#
# The network is a small one, trained on 8x8 digits. It lies in the repository, which is fetched
# if it is not at hand.

# %%
import subprocess
import sys
from pathlib import Path

found = [
    folder
    for folder in (Path.cwd(), *Path.cwd().parents)
    if (folder / "recipes" / "diffusion").is_dir()
]
if not found:  # opened elsewhere, as in Colab
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", "{{ repo_url }}", "copy"],
        check=True,
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "./copy[diffusion]",
        ],
        check=True,
    )
    found = [Path("copy")]
digits = found[0] / "recipes" / "diffusion" / "digits"

# %%
import matplotlib.pyplot as plt
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    UNet2DModel,
)

from lds_iter.diffusion import ParallelSampler, parallelize

torch.set_num_threads(1)
unet = (
    UNet2DModel.from_pretrained(digits, subfolder="unet", variant="fp16")
    .float()
    .eval()
)
print(f"{sum(weight.numel() for weight in unet.parameters()):,} parameters")

# %% [markdown]
# ## Step by step, and in parallel
#
# `ParallelSampler` takes a network and a scheduler of diffusers. `step_by_step` is the
# scheduler's own loop.

# %%
noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
labels = {"class_labels": torch.tensor([1, 2, 3, 5, 8, 9])}
sampler = ParallelSampler(unet, DDIMScheduler(clip_sample=False), tol=1e-3)
loop = sampler.step_by_step(noise, 50, labels)
parallel = sampler(noise, 50, labels)
error = (parallel.sample - loop.sample).square().mean().sqrt()
print(f"{loop.work.rounds} calls one after the other, or")
print(f"{parallel.work.rounds} rounds of batched calls:")
each = parallel.work.evaluations / 6 / 50
print(f"{each:.1f} evaluations per step, error {error:.0e}")

# %%
figure, lines = plt.subplots(2, 6, figsize=(7, 2.6))
for line, drawn, name in zip(
    lines, (loop, parallel), ("step by step", "in parallel"), strict=True
):
    for place, image in zip(line, drawn.sample, strict=True):
        place.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        place.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
plt.show()

# %% [markdown]
# ## Watch it converge
#
# Every round improves the whole trajectory at once. The callback sees the states after each
# round; here is the largest residual of each time step, which is zero where the trajectory is
# solved.

# %%
history = sampler(
    noise[:1], 50, {"class_labels": torch.tensor([1])}, record=True
).solution.history
figure, place = plt.subplots(figsize=(7, 2.4))
image = place.imshow(
    history.residual_map[..., 0].clamp(min=1e-6).log10(),
    aspect="auto",
    cmap="magma",
)
place.set(xlabel="time step", ylabel="round")
figure.colorbar(image, label="residual, power of ten")
plt.show()

# %% [markdown]
# ## Noise, guidance, and a start from what is known
#
# Noise that a scheduler adds is drawn once, in its own order, so the same seed gives the same
# image. A solved trajectory is a good first guess for a scale of guidance, or a prompt, that has
# changed a little.

# %%
noisy = ParallelSampler(unet, EulerAncestralDiscreteScheduler(), tol=1e-2)
start = noise * float(EulerAncestralDiscreteScheduler().init_noise_sigma)
pair = [
    draw(start, 30, labels, generator=torch.Generator().manual_seed(0))
    for draw in (noisy, noisy.step_by_step)
]
error = (pair[0].sample - pair[1].sample).square().mean().sqrt()
rounds = pair[0].work.rounds
print(f"a scheduler that adds noise: {rounds} of 30 rounds, error {error:.0e}")

guided = {
    "unconditional": {"class_labels": torch.full((6,), 10)},
    "guidance_scale": 2.0,
}
cold = sampler(noise, 50, labels, **guided)
warm = sampler(
    noise,
    50,
    labels,
    **{**guided, "guidance_scale": 2.05},
    guess=cold.trajectory,
)
print(f"guided: {cold.work.rounds} rounds")
print(f"with a scale changed a little, from there: {warm.work.rounds} rounds")

# %% [markdown]
# ## A pipeline
#
# For a whole pipeline, `parallelize(pipe)` takes the arguments of `pipe` and returns what `pipe`
# returns: prompts, callbacks, masks, adapters.

# %%
plain = (
    UNet2DModel.from_pretrained(digits, subfolder="unet", variant="fp16")
    .float()
    .eval()
)
plain.register_to_config(num_class_embeds=None)
plain.class_embedding = None  # this pipeline has no classes
pipe = DDIMPipeline(plain, DDIMScheduler(clip_sample=False))
pipe.set_progress_bar_config(disable=True)
fast = parallelize(pipe, tol=1e-3)
pictures = fast(
    batch_size=4,
    num_inference_steps=30,
    generator=torch.Generator().manual_seed(0),
).images
print(pictures[0].size, fast.sampled.work.rounds, "rounds of 30")
