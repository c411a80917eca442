"""Which inputs make a style, and which leave nothing of it."""

from __future__ import annotations

import logging

import pytest


def refusal(rig, *models) -> str:
    with pytest.raises(ValueError) as caught:
        rig.style_source.find_style(*models)
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def assert_names_both_nodes(message: str) -> None:
    assert "'Stylize Style LoRA'" in message
    assert "'Load LoRA'" in message


def test_style_on_the_model_itself(rig, micro, path):
    branch = rig.lora_files.load_style(path, micro, 0.8)
    source = rig.style_source.find_style(rig.style_branch.attach(micro, branch))
    assert source.branch is branch
    assert source.patcher is None


def test_style_from_a_clone_with_a_stock_lora(rig, micro, path):
    source = rig.style_source.find_style(micro, rig.loras.weight_patched(micro, path, 0.8))
    assert source.branch.deltas and source.patcher is None


def test_style_from_a_second_checkpoint(rig, micro):
    other = rig.micro.unet(seed=1)
    source = rig.style_source.find_style(micro, other)
    assert source.patcher is other and source.branch is None


def test_style_from_the_same_checkpoint_loaded_twice_with_a_lora(rig, micro, path):
    patched = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    assert rig.style_source.find_style(micro, patched).patcher is patched


def test_no_style_at_all_names_both_nodes(rig, micro):
    message = refusal(rig, micro)
    assert message.startswith("model: it carries no style and style_model is not connected")
    assert_names_both_nodes(message)


@pytest.mark.parametrize("same", ["itself", "clone", "two stock loaders"])
def test_equal_models_name_both_nodes(rig, micro, path, same):
    pairs = {
        "itself": (micro, micro),
        "clone": (micro, micro.clone()),
        "two stock loaders": tuple(rig.loras.weight_patched(micro, path, 0.8) for _ in range(2)),
    }
    message = refusal(rig, *pairs[same])
    assert message.startswith("model and style_model: both are the same checkpoint with the same LoRAs")
    assert_names_both_nodes(message)


def test_two_loaders_of_one_checkpoint_name_both_nodes(rig, micro):
    message = refusal(rig, micro, rig.micro.unet())
    assert message.startswith("model and style_model: two loaders loaded the same checkpoint")
    assert_names_both_nodes(message)


def test_two_loaders_with_the_same_lora_are_equal_too(rig, micro, path):
    pair = [rig.loras.weight_patched(model, path, 0.8) for model in (micro, rig.micro.unet())]
    assert "two loaders loaded the same checkpoint" in refusal(rig, *pair)


def test_two_loaders_with_different_loras_are_a_style(rig, micro, path, tmp_path):
    other = rig.loras.saved(rig.loras.kohya(micro, alpha=4.0), tmp_path / "other.safetensors")
    one, two = rig.loras.weight_patched(micro, path, 0.8), rig.loras.weight_patched(rig.micro.unet(), other, 0.8)
    assert rig.style_source.find_style(one, two).patcher is two


def test_two_loaders_with_one_lora_at_two_strengths_are_a_style(rig, micro, path):
    one, two = rig.loras.weight_patched(micro, path, 0.2), rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    assert rig.style_source.find_style(one, two).patcher is two


def test_weights_that_a_run_left_patched_do_not_hide_an_equal_checkpoint(rig, micro, path):
    """ComfyUI keeps the last LoRA written into the weights until another model is loaded."""
    other = rig.micro.unet()
    rig.model_management.load_models_gpu([rig.loras.weight_patched(other, path, 0.8)])
    assert "two loaders loaded the same checkpoint" in refusal(rig, micro, other)


def test_style_lora_on_a_second_loader_of_the_checkpoint_is_a_style(rig, micro, path):
    other = rig.micro.unet()
    styled = rig.style_branch.attach(other, rig.lora_files.load_style(path, other, 0.8))
    assert rig.style_source.find_style(micro, styled).patcher is styled


def test_style_of_strength_zero_is_refused(rig, micro, path):
    styled = rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.0))
    assert "style.safetensors has strength 0" in refusal(rig, styled)


def test_stock_lora_of_strength_zero_is_no_style(rig, micro, path):
    assert "no style is left" in refusal(rig, micro, rig.loras.weight_patched(micro, path, 0.0))


def test_models_with_other_latents_are_refused_with_both_names(rig, wiring_model):
    message = refusal(rig, wiring_model("sd15"), wiring_model("sdxl"))
    assert message.startswith("style_model: it works on SDXL latents, model on SD15 latents")


def test_flow_and_noise_prediction_models_do_not_mix(rig, micro):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = ModelSamplingSD3().patch(rig.micro.unet(seed=1), 3.0)[0]
    assert "one of the two models is a flow model" in refusal(rig, micro, flow)


def test_refused_family_says_on_which_input(rig, micro, wiring_model):
    assert refusal(rig, wiring_model("wan")).startswith("model: the model family WAN21")
    assert refusal(rig, micro, wiring_model("wan")).startswith("style_model: the model family WAN21")


def test_nodes_on_the_style_alone_are_named_in_a_warning(rig, micro, path, caplog):
    style = rig.loras.weight_patched(micro, path, 0.8)
    style.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
    with caplog.at_level(logging.WARNING):
        rig.style_source.find_style(micro, style)
    assert "style_model also carries patches" in caplog.text


def test_finding_a_style_changes_neither_model(rig, micro, path):
    style = rig.loras.weight_patched(micro, path, 0.8)
    before = rig.leaks.state(micro), rig.leaks.state(style)
    rig.style_source.find_style(micro, style)
    assert (rig.leaks.state(micro), rig.leaks.state(style)) == before


def test_two_styles_at_once_are_refused_by_name(rig, micro, path):
    styled = rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8))
    message = refusal(rig, styled, rig.loras.weight_patched(micro, path, 0.5))
    assert message.startswith("model and style_model: model carries the style style.safetensors")
    assert "disconnect style_model" in message


WIDTHS = [("SD20", "context_dim", 1024), ("SDXLRefiner", "adm_in_channels", 2560)]


@pytest.mark.parametrize(("family", "key", "width"), WIDTHS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_style_model_for_other_prompts_is_refused_by_both_names(rig, micro, family, key, width, swapped):
    """SD 2.x beside SD 1.5, SDXL's refiner beside its base: alike in their latents, not in their prompts."""
    import comfy.supported_models

    other = rig.micro.unet(seed=1)
    kind = getattr(comfy.supported_models, family)
    other.model.model_config = kind({**other.model.model_config.unet_config, key: width})
    message = refusal(rig, *((other, micro) if swapped else (micro, other)))
    assert message.startswith("style_model: it is a ")
    assert family in message and "SD15" in message and str(width) in message
