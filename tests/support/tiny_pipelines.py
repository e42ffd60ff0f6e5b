"""Pipelines of diffusers with tiny networks of random weights, and arguments for a call of each.

A function per pipeline; each returns the pipeline and a function that makes the arguments anew, generator included.
Texts are given as embeddings, so that no tokenizer is needed.
"""

import diffusers
import torch

STEPS = 6


def _random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(latents="latent", **fixed):
    """The arguments of a call, with a new generator each time and no decoder behind the loop."""
    return lambda **more: {
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(3),
        "output_type": latents,
        **fixed,
        **more,
    }


# ---- components


def unet(in_channels=4, cross=16, **more):
    torch.manual_seed(0)
    net = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=cross, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()  # fmt: skip
    with torch.no_grad():  # the text has a say in the output
        for name, weight in net.named_parameters():
            if "attn2" in name:
                weight.mul_(3)
    return net


def vae(latent_channels=4, **more):
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent_channels, block_out_channels=(8, 8), norm_num_groups=4,
        sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    ).eval()  # fmt: skip


def ddim(**more):
    return diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", steps_offset=1, **more)


def flow(**more):
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


def image(batch=1, size=16):
    return _random(batch, 3, size, size, seed=5).sigmoid()


def mask(batch=1, size=16):
    half = torch.zeros(batch, 1, size, size)
    half[..., size // 2 :] = 1
    return half


EMBEDS = {"prompt_embeds": _random(2, 8, 16), "negative_prompt_embeds": _random(2, 8, 16, seed=2)}
ONE = {name: value[:1] for name, value in EMBEDS.items()}

SD = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}


def _sd(kind, scheduler=None, **more):
    parts = {"vae": vae(), "unet": unet(), "scheduler": scheduler or ddim(), **SD, **more}
    return _quiet(kind(**parts, requires_safety_checker=False))


# ---- pipelines of a UNet


def ddpm():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    return _quiet(diffusers.DDPMPipeline(net, diffusers.DDPMScheduler())), arguments("np", batch_size=2)


def ddim_unconditional():
    pipe, _ = ddpm()
    return _quiet(diffusers.DDIMPipeline(pipe.unet, diffusers.DDIMScheduler())), arguments("np", batch_size=2, eta=0.5)


def stable_diffusion(scheduler=None, **more):
    return _sd(diffusers.StableDiffusionPipeline, scheduler, **more), arguments(**EMBEDS)


def stable_diffusion_image_to_image():
    pipe = _sd(diffusers.StableDiffusionImg2ImgPipeline)
    return pipe, arguments(**EMBEDS, image=image(2), strength=0.8, num_inference_steps=8)


def stable_diffusion_inpaint():
    pipe = _sd(diffusers.StableDiffusionInpaintPipeline)
    return pipe, arguments(**ONE, image=image(), mask_image=mask(), height=16, width=16)


def stable_diffusion_inpaint_of_nine_channels():
    pipe = _sd(diffusers.StableDiffusionInpaintPipeline, unet=unet(9))
    return pipe, arguments(**ONE, image=image(), mask_image=mask(), height=16, width=16)


def instruct_pix2pix():
    pipe = _sd(diffusers.StableDiffusionInstructPix2PixPipeline, unet=unet(8))
    return pipe, arguments(**ONE, image=image())


def _controlnet(**more):
    torch.manual_seed(1)
    return diffusers.ControlNetModel(
        in_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4, 4), **more,
    ).eval()  # fmt: skip


def controlnet():
    net = _controlnet()
    for parameter in net.parameters():  # its output layers begin at zero, where nothing would be tested
        torch.nn.init.normal_(parameter, std=0.1)
    pipe = _sd(diffusers.StableDiffusionControlNetPipeline, controlnet=net)
    return pipe, arguments(**ONE, image=image(size=16), control_guidance_start=0.2, control_guidance_end=0.9)


def pag():
    pipe = _sd(diffusers.StableDiffusionPAGPipeline, pag_applied_layers="mid")
    return pipe, arguments(**EMBEDS, pag_scale=2.0)


def latent_consistency():
    pipe = _sd(diffusers.LatentConsistencyModelPipeline, diffusers.LCMScheduler(), unet=unet(time_cond_proj_dim=32))
    return pipe, arguments(prompt_embeds=EMBEDS["prompt_embeds"], num_inference_steps=4, guidance_scale=8.0)


def animate_diff():
    torch.manual_seed(0)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
        motion_mid_block_layers_per_block=1,
    ).eval()  # fmt: skip
    pipe = diffusers.AnimateDiffPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=unet(), motion_adapter=adapter, scheduler=ddim()
    )
    return _quiet(pipe), arguments(**ONE, num_frames=3)


XL_EMBEDS = {
    **ONE,
    "pooled_prompt_embeds": _random(1, 8),
    "negative_pooled_prompt_embeds": _random(1, 8, seed=2),
}


def _xl(kind, **more):
    net = unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4
    )
    parts = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None, **more}
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    return _quiet(kind(vae=vae(), unet=net, scheduler=scheduler, add_watermarker=False, **parts))


def stable_diffusion_xl():
    return _xl(diffusers.StableDiffusionXLPipeline), arguments(**XL_EMBEDS, guidance_rescale=0.3)


def stable_diffusion_xl_image_to_image():
    pipe = _xl(diffusers.StableDiffusionXLImg2ImgPipeline)
    return pipe, arguments(**XL_EMBEDS, image=image(), strength=0.7, num_inference_steps=8)


def stable_diffusion_xl_inpaint():
    pipe = _xl(diffusers.StableDiffusionXLInpaintPipeline)
    return pipe, arguments(**XL_EMBEDS, image=image(), mask_image=mask(), height=16, width=16, strength=0.99)


# ---- pipelines of a transformer


def dit():
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    pipe = _quiet(diffusers.DiTPipeline(net, vae(), diffusers.DDIMScheduler(clip_sample=False)))
    return pipe, arguments("np", class_labels=[1, 2])


def pixart():
    torch.manual_seed(0)
    net = diffusers.PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, cross_attention_dim=8, caption_channels=16, norm_type="ada_norm_single",
        use_additional_conditions=False, num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    pipe = diffusers.PixArtAlphaPipeline(None, None, vae(), net, diffusers.DPMSolverMultistepScheduler())
    masks = {"prompt_attention_mask": torch.ones(2, 8), "negative_prompt_attention_mask": torch.ones(2, 8)}
    size = {"height": 16, "width": 16, "use_resolution_binning": False}
    return _quiet(pipe), arguments(**EMBEDS, **masks, **size, negative_prompt=None)


def _sd3(kind, **more):
    torch.manual_seed(0)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=8,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    texts = {f"{kind_}{n}": None for kind_ in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")}
    return _quiet(kind(transformer=net, scheduler=flow(), vae=vae(shift_factor=0.1), **texts, **more))


def stable_diffusion_3():
    return _sd3(diffusers.StableDiffusion3Pipeline), arguments(
        **XL_EMBEDS, height=16, width=16, skip_guidance_layers=[1], skip_layer_guidance_stop=0.7
    )


def stable_diffusion_3_image_to_image():
    pipe = _sd3(diffusers.StableDiffusion3Img2ImgPipeline)
    return pipe, arguments(**XL_EMBEDS, height=16, width=16, image=image(), strength=0.6, num_inference_steps=8)


def _flux(kind, channels=16, **more):
    torch.manual_seed(0)
    net = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=channels, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    ).eval()  # fmt: skip
    texts = {f"{kind_}{n}": None for kind_ in ("text_encoder", "tokenizer") for n in ("", "_2")}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return _quiet(kind(scheduler=scheduler, vae=vae(shift_factor=0.1), transformer=net, **texts, **more))


FLUX = {"prompt_embeds": _random(1, 8, 16), "pooled_prompt_embeds": _random(1, 8), "height": 16, "width": 16}


def flux():
    more = {"negative_prompt_embeds": _random(1, 8, 16, seed=2), "negative_pooled_prompt_embeds": _random(1, 8, seed=4)}
    return _flux(diffusers.FluxPipeline), arguments(**FLUX, **more, true_cfg_scale=2.0)


def flux_of_two():
    given = {"prompt_embeds": _random(2, 8, 16), "pooled_prompt_embeds": _random(2, 8), "height": 16, "width": 16}
    return _flux(diffusers.FluxPipeline), arguments(**given)


def flux_image_to_image():
    return _flux(diffusers.FluxImg2ImgPipeline), arguments(**FLUX, image=image(), strength=0.7, num_inference_steps=8)


def flux_inpaint():
    pipe = _flux(diffusers.FluxInpaintPipeline)
    return pipe, arguments(**FLUX, image=image(), mask_image=mask(), strength=0.7, num_inference_steps=8)


def flux_kontext():
    pipe = _flux(diffusers.FluxKontextPipeline)
    return pipe, arguments(**FLUX, image=image(), max_area=16 * 16, _auto_resize=False)


def _wan_net(seed=0, **more):
    torch.manual_seed(seed)
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=16, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=16,
        **{"in_channels": 4, **more},
    ).eval()  # fmt: skip


def _wan_vae():
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


def _wan_scheduler():
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def wan():
    pipe = diffusers.WanPipeline(None, None, _wan_vae(), _wan_scheduler(), _wan_net())
    return _quiet(pipe), arguments(**ONE, height=32, width=32, num_frames=5)


def wan_of_two_networks():
    pipe = diffusers.WanPipeline(None, None, _wan_vae(), _wan_scheduler(), _wan_net(), _wan_net(1), boundary_ratio=0.8)
    return _quiet(pipe), arguments(**ONE, height=32, width=32, num_frames=5, guidance_scale_2=3.0)


def wan_image_to_video():
    pipe = diffusers.WanImageToVideoPipeline(
        None, None, _wan_vae(), _wan_scheduler(), None, None, _wan_net(in_channels=12), boundary_ratio=None
    )
    return _quiet(pipe), arguments(**ONE, image=image(size=32), height=32, width=32, num_frames=5)


def ltx():
    torch.manual_seed(0)
    net = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=16,
    ).eval()  # fmt: skip
    coder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    ).eval()  # fmt: skip
    pipe = diffusers.LTXPipeline(flow(), coder, None, None, net)
    masks = {"prompt_attention_mask": torch.ones(1, 8), "negative_prompt_attention_mask": torch.ones(1, 8)}
    return _quiet(pipe), arguments(**ONE, **masks, height=32, width=32, num_frames=9)


def cogvideox():
    torch.manual_seed(0)
    net = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=4,
        text_embed_dim=16, num_layers=1, sample_width=8, sample_height=8, sample_frames=5, patch_size=2,
        max_text_seq_length=8, use_rotary_positional_embeddings=True,
    ).eval()  # fmt: skip
    coder = diffusers.AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
    ).eval()  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler()
    pipe = diffusers.CogVideoXPipeline(None, None, coder, net, scheduler)
    return _quiet(pipe), arguments(**ONE, height=64, width=64, num_frames=5, max_sequence_length=8)


def qwen_image():
    torch.manual_seed(0)
    net = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    coder = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ).eval()
    pipe = diffusers.QwenImagePipeline(flow(), coder, None, None, net)
    masks = {
        "prompt_embeds_mask": torch.ones(1, 8, dtype=torch.int64),
        "negative_prompt_embeds_mask": torch.ones(1, 8, dtype=torch.int64),
    }
    return _quiet(pipe), arguments(**ONE, **masks, height=32, width=32, true_cfg_scale=2.0)


def stable_audio():
    torch.manual_seed(0)
    net = diffusers.StableAudioDiTModel(
        sample_size=8, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=8, time_proj_dim=8,
        global_states_input_dim=16, cross_attention_input_dim=8,
    ).eval()  # fmt: skip
    coder = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 2], channel_multiples=[1, 2], decoder_channels=4,
        decoder_input_channels=4, audio_channels=2, sampling_rate=16,
    ).eval()  # fmt: skip
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    projection = StableAudioProjectionModel(text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32).eval()
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction", sigma_data=1.0)
    pipe = diffusers.StableAudioPipeline(coder, None, projection, None, net, scheduler)
    embeds = {"prompt_embeds": _random(1, 4, 8), "negative_prompt_embeds": _random(1, 4, 8, seed=2)}
    masks = {name: torch.ones(1, 4, dtype=torch.int64) for name in ("attention_mask", "negative_attention_mask")}
    return _quiet(pipe), arguments(**embeds, **masks, audio_end_in_s=2.0)


PIPELINES = {
    build.__name__: build
    for build in (
        ddpm, ddim_unconditional, stable_diffusion, stable_diffusion_image_to_image, stable_diffusion_inpaint,
        stable_diffusion_inpaint_of_nine_channels, instruct_pix2pix, controlnet, pag, latent_consistency, animate_diff,
        stable_diffusion_xl, stable_diffusion_xl_image_to_image, stable_diffusion_xl_inpaint, dit, pixart,
        stable_diffusion_3, stable_diffusion_3_image_to_image, flux, flux_of_two, flux_image_to_image, flux_inpaint,
        flux_kontext, wan, wan_of_two_networks, wan_image_to_video, ltx, cogvideox, qwen_image, stable_audio,
    )
}  # fmt: skip


def with_text(folder):
    """Stable Diffusion with a text encoder, and CLIP's tokenizer over letters, whose files it writes into a folder."""
    import json

    import transformers

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8, pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    text = transformers.CLIPTextModel(config).eval()
    return _sd(diffusers.StableDiffusionPipeline, text_encoder=text, tokenizer=tokenizer)
