"""A text-to-image pipeline of the components of Stable Diffusion that denoises in parallel over the steps."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from recipes.diffusion.pipeline import Callback, converted, eta_option, first_sample, report_steps
from recipes.diffusion.sampler import ParallelSampler


class ParallelTextToImagePipeline(DiffusionPipeline):
    """Images from a text: what `StableDiffusionPipeline` draws, of the same components, without its safety checker.

    `ParallelTextToImagePipeline.from_pipe(pipe)` makes one of a pipeline in hand, of the same components.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    # The types are those by which diffusers' `from_pipe` decides what it may hand over.
    def __init__(
        self, vae: AutoencoderKL, text_encoder: Any, tokenizer: Any, unet: UNet2DConditionModel, scheduler: Any
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        image: Tensor | None = None,
        strength: float = 0.8,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        sampler: dict[str, Any] | None = None,
    ) -> Any:
        """Draw one image per prompt.

        Args:
            prompt: one text or several.
            num_inference_steps: of the scheduler.
            guidance_scale: of classifier-free guidance; 1 or less for none.
            negative_prompt: what to steer away from.
            height, width: in pixels; the network's own size when None.
            eta: of DDIM and TCD.
            generator: of the first noise, and then of the scheduler's.
            latents: the first noise, `(B, C, h, w)`; drawn when None.
            image: start from this image, `(B, 3, height, width)` in [-1, 1], instead of noise alone.
            strength: how much of the noise to add to `image`, and how many of the steps to run.
            output_type: "pil", "np", "pt", or "latent".
            return_dict: an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: called as diffusers calls it, once per step in order, when the batch is solved.
            sampler: options of `ParallelSampler`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        guided = guidance_scale > 1
        given = {"encoder_hidden_states": self._encoded(prompts)}
        negative = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * len(prompts)
        for name, given_one in (("negative_prompt", negative), ("latents", latents), ("image", image)):
            if given_one is not None and len(given_one) != len(prompts):
                raise ValueError(f"`{name}` must be one per prompt, {len(prompts)}, got {len(given_one)}.")
        without = {"encoder_hidden_states": self._encoded(negative)} if guided else None
        first, begin = self._start(
            len(prompts), num_inference_steps, height, width, latents, image, strength, generator
        )
        sampled = ParallelSampler(self.unet, self.scheduler, **(sampler or {}))(
            first,
            num_inference_steps,
            given,
            unconditional=without,
            guidance_scale=guidance_scale,
            generator=generator,
            begin=begin,
            step_options=eta_option(self.scheduler, eta),
        )
        report_steps(self, sampled, callback_on_step_end)
        if output_type == "latent":
            images: Any = sampled.sample
        else:
            decoded = self.vae.decode(sampled.sample / self.vae.config.scaling_factor, return_dict=False)[0]
            images = converted((decoded / 2 + 0.5).clamp(0, 1), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _encoded(self, prompts: list[str]) -> Tensor:
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self._execution_device))[0].to(self.unet.dtype)

    def _start(
        self,
        batch: int,
        steps: int,
        height: int | None,
        width: int | None,
        latents: Tensor | None,
        image: Tensor | None,
        strength: float,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, int]:
        """What the first step gets, and how many of the scheduler's timesteps to skip."""
        device, dtype = self._execution_device, self.unet.dtype
        if image is not None:
            return self._noised(image.to(device, self.vae.dtype), steps, strength, latents, generator)
        wrong = {name: size for name, size in (("height", height), ("width", width)) if size is not None and size % 8}
        if wrong:  # as diffusers has it; the latents would be those of a smaller image
            nearest = ", ".join(f"{name}={max(8, round(size / 8) * 8)}" for name, size in wrong.items())
            raise ValueError(
                f"`height` and `width` have to be divisible by 8 but are {height} and {width}. Type {nearest}."
            )
        if latents is None:
            factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
            size = self.unet.config.sample_size
            shape = (height // factor if height else size, width // factor if width else size)
            shape = (batch, self.unet.config.in_channels, *shape)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return first_sample(latents, self.scheduler, steps), 0

    def _noised(
        self, image: Tensor, steps: int, strength: float, noise: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """Latents of an image, noised as much as the first step that is run expects."""
        if not 0 < strength <= 1:
            raise ValueError(f"`strength` must lie in (0, 1], got {strength}.")
        order = getattr(self.scheduler, "order", 1)
        begin = max(0, steps - min(int(steps * strength), steps)) * order
        encoded = self.vae.encode(image).latent_dist.sample(generator) * self.vae.config.scaling_factor
        encoded = encoded.to(self.unet.dtype)
        if noise is None:
            noise = randn_tensor(encoded.shape, generator=generator, device=encoded.device, dtype=encoded.dtype)
        self.scheduler.set_timesteps(steps)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        first = self.scheduler.timesteps[begin : begin + 1].repeat(len(encoded))
        return self.scheduler.add_noise(encoded, noise, first), begin
