"""A pipeline like those of diffusers, `pipe(...).images`, that denoises in parallel over the steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from recipes.diffusion.sampled import Sampled
from recipes.diffusion.sampler import ParallelSampler

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]


class ParallelImagePipeline(DiffusionPipeline):
    """Images without a text: what `DDPMPipeline` and `DDIMPipeline` draw, and class-conditional ones.

    Args:
        unet: a `UNet2DModel`.
        scheduler: any that can be mapped (`SchedulerNotMapped` names some).
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
        *,
        class_labels: Tensor | None = None,
        unconditional_label: int | None = None,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        sampler: dict[str, Any] | None = None,
    ) -> Any:
        """Draw a batch.

        Args:
            batch_size: how many images.
            num_inference_steps: of the scheduler.
            generator: of the first noise, and then of the scheduler's.
            class_labels: int64 `(batch_size,)`, for a class-conditional network.
            unconditional_label: the label that guidance steers away from; None for no guidance.
            guidance_scale: how strongly.
            eta: of DDIM and TCD.
            latents: the first noise, `(batch_size, C, H, W)`; drawn when None.
            output_type: "pil", "np" or "pt".
            return_dict: an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: called as diffusers calls it, once per step in order, when the batch is solved.
            sampler: options of `ParallelSampler`, such as `{"method": Structured(), "tol": 1e-3}`.
        """
        if latents is None:
            size = self.unet.config.sample_size
            height, width = (size, size) if isinstance(size, int) else size
            shape = (batch_size, self.unet.config.in_channels, height, width)
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        if class_labels is not None and len(class_labels) != len(latents):
            raise ValueError(
                f"`class_labels` must be one label per image, int64 ({len(latents)},), got {(*class_labels.shape,)}."
            )
        parallel = ParallelSampler(self.unet, self.scheduler, **(sampler or {}))
        unconditional = None
        if class_labels is not None and unconditional_label is not None:
            unconditional = {"class_labels": torch.full_like(class_labels, unconditional_label)}
        sampled = parallel(
            first_sample(latents, self.scheduler, num_inference_steps),
            num_inference_steps,
            {} if class_labels is None else {"class_labels": class_labels},
            unconditional=unconditional,
            guidance_scale=guidance_scale,
            generator=generator,
            step_options=eta_option(self.scheduler, eta),
        )
        report_steps(self, sampled, callback_on_step_end)
        images = converted((sampled.sample / 2 + 0.5).clamp(0, 1), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def first_sample(latents: Tensor, scheduler: Any, steps: int) -> Tensor:
    """The noise as the scheduler wants it, which for some it does not know before `set_timesteps`."""
    from recipes.diffusion.schedulers import prepared

    ready, _ = prepared(scheduler, steps)
    return latents * float(getattr(ready, "init_noise_sigma", 1.0))


def eta_option(scheduler: Any, eta: float) -> dict[str, float]:
    """`eta`, for the schedulers that take one."""
    return {"eta": eta} if "eta" in inspect.signature(scheduler.step).parameters else {}


def report_steps(pipeline: Any, sampled: Sampled, callback: Callback | None) -> None:
    """Call back for every step in order, with the solved latents, which cannot be changed any more."""
    if callback is None:
        return
    for step, timestep in enumerate(sampled.timesteps):
        latents = sampled.trajectory[step].to(sampled.sample.dtype)
        returned = callback(pipeline, step, timestep, {"latents": latents})
        if returned and returned.get("latents", latents) is not latents:
            raise ValueError(
                "`callback_on_step_end` returned other latents. All steps are solved at once, so a callback can watch "
                "but not steer: put what it does into the network, or run the sequential pipeline."
            )


def converted(images: Tensor, output_type: str) -> Any:
    """Images in [0, 1], `(B, C, H, W)`, as asked for."""
    if output_type == "pt":
        return images
    arrays = images.float().cpu().permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return arrays
    if output_type != "pil":
        raise ValueError(f'`output_type` must be "pil", "np" or "pt", got {output_type!r}.')
    return VaeImageProcessor.numpy_to_pil(arrays)
