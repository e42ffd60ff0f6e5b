"""Networks with low-rank adapters, and components moved to and from a device by hooks."""

import pytest
import torch

peft = pytest.importorskip("peft")
accelerate = pytest.importorskip("accelerate")
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from accelerate.hooks import AlignDevicesHook, add_hook_to_module  # noqa: E402
from pipeline_checks import EXACT, assert_as_pipe, result  # noqa: E402
from tiny_pipelines import arguments, stable_diffusion, with_text  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]

LOW_RANK = {"r": 2, "lora_alpha": 4, "target_modules": ["to_q", "to_v"]}


def trained(unet):
    """An adapter begins at nothing; this one has been trained, so to say."""
    torch.manual_seed(2)
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)


def test_an_adapter_and_its_scale(tmp_path):
    pipe = with_text(tmp_path)
    given = arguments(prompt=["a cat", "a dog"], negative_prompt=["x", "y"])
    pipe.unet.add_adapter(peft.LoraConfig(**LOW_RANK))
    trained(pipe.unet)
    full, less = (result(pipe(**given(cross_attention_kwargs={"scale": scale}))) for scale in (1.0, 0.3))
    assert (full - less).abs().max() > 100 * EXACT * full.abs().max()
    assert_as_pipe(pipe, lambda: given(cross_attention_kwargs={"scale": 0.3}))


def test_a_network_wrapped_by_peft():
    pipe, given = stable_diffusion()
    pipe.unet = peft.get_peft_model(pipe.unet, peft.LoraConfig(**LOW_RANK))
    trained(pipe.unet)
    assert_as_pipe(pipe, given)


def test_hooks_that_move_components_are_called_and_stay():
    pipe, given = stable_diffusion()
    add_hook_to_module(pipe.unet, AlignDevicesHook("cpu"))
    assert_as_pipe(pipe, given)
    assert isinstance(pipe.unet._hf_hook, AlignDevicesHook)
    pipe, given = stable_diffusion()
    pipe.enable_model_cpu_offload(device="cpu")
    assert_as_pipe(pipe, given)
