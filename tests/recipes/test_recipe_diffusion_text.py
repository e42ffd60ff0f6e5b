"""Text to image in parallel, on real diffusers and transformers classes of tiny size with random weights."""

import json

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
transformers = pytest.importorskip("transformers")

from recipes.diffusion.sampler import ParallelSampler  # noqa: E402
from recipes.diffusion.text_to_image import ParallelTextToImagePipeline  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]


def tokenizer(folder):
    """CLIP's tokenizer with a vocabulary of letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8, pad_token="<|endoftext|>"
    )


@pytest.fixture
def components(tmp_path):
    torch.manual_seed(0)
    words = tokenizer(tmp_path)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    text = transformers.CLIPTextModel(config)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", steps_offset=1)
    return {
        "vae": vae.eval(), "text_encoder": text.eval(), "tokenizer": words, "unet": unet.eval(), "scheduler": scheduler
    }  # fmt: skip


def theirs(components, kind, **options):
    pipe = kind(**components, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=torch.Generator().manual_seed(3), output_type="np", **options).images


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_images_are_those_of_stable_diffusion(components, guidance, name):
    components["scheduler"] = getattr(diffusers, name).from_config(components["scheduler"].config)
    options = {"prompt": ["a cat", "a dog"], "num_inference_steps": 6, "guidance_scale": guidance}
    expected = theirs(components, diffusers.StableDiffusionPipeline, **options)
    pipe = ParallelTextToImagePipeline(**components)
    generator = torch.Generator().manual_seed(3)
    images = pipe(generator=generator, output_type="np", sampler={"tol": 0, "max_batch": 5}, **options).images
    assert abs(images - expected).max() < 1e-4  # float32 rounding of other batch sizes, through guidance


def test_image_to_image_is_that_of_stable_diffusion(components):
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    options = {"prompt": "a cat", "num_inference_steps": 10, "guidance_scale": 3.0, "strength": 0.6}
    expected = theirs(components, diffusers.StableDiffusionImg2ImgPipeline, image=image, **options)
    pipe = ParallelTextToImagePipeline(**components)
    generator = torch.Generator().manual_seed(3)
    images = pipe(image=image, generator=generator, output_type="np", sampler={"tol": 0}, **options).images
    assert abs(images - expected).max() < 1e-4  # as above


def test_saved_and_loaded(components, tmp_path):
    pipe = ParallelTextToImagePipeline(**components)
    pipe.save_pretrained(tmp_path / "pipe")
    again = ParallelTextToImagePipeline.from_pretrained(tmp_path / "pipe")
    latents = torch.randn(1, 4, 8, 8)
    first, second = (each("a cat", 5, latents=latents, output_type="latent").images for each in (pipe, again))
    assert torch.equal(first, second)
    assert pipe("a cat", 3).images[0].size == (16, 16)


def test_made_of_a_pipeline_in_hand(components):
    stable = diffusers.StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe = ParallelTextToImagePipeline.from_pipe(stable)
    assert pipe.unet is stable.unet
    assert pipe("a cat", 3, output_type="np").images.shape == (1, 16, 16, 3)
    back = diffusers.StableDiffusionPipeline.from_pipe(
        pipe, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    assert back.vae is pipe.vae


def test_a_size_that_no_latents_have_is_refused_as_diffusers_does(components):
    stable = diffusers.StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe = ParallelTextToImagePipeline(**components)
    for each in stable, pipe:
        with pytest.raises(ValueError, match=r"`height` and `width` have to be divisible by 8 but are 17 and 24"):
            each("a cat", num_inference_steps=2, height=17, width=24)
    with pytest.raises(ValueError, match=r"Type height=16\."):
        pipe("a cat", 2, height=17)
    assert pipe("a cat", 3, height=24, width=16, output_type="np").images.shape == (1, 24, 16, 3)


def test_transformers_and_flow_matching():
    """The conditioning of Stable Diffusion 3, by its own names, and a diffusion transformer of classes."""
    torch.manual_seed(0)
    sd3 = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(2, 3, 8), "pooled_projections": torch.randn(2, 8)}
    for model, scheduler, conditioning in (
        (sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), text),
        (dit, diffusers.DDIMScheduler(), {"class_labels": torch.tensor([1, 2])}),
    ):
        sampler = ParallelSampler(model, scheduler, tol=0)
        noise = torch.randn(2, 4, 8, 8)
        parallel, loop = (run(noise, 8, conditioning).sample for run in (sampler, sampler.step_by_step))
        assert (parallel - loop).abs().max() <= 1e-4 * loop.abs().max()  # float32 rounding of other batch sizes
