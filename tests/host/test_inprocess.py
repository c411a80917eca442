"""ComfyUI inside the test process: modules, wiring models, LoRA files."""

from __future__ import annotations

import sys

import pytest
import torch
from stylization_host import comfy_tree, wiring


def test_comfyui_has_its_own_nodes_and_nothing_of_ours_is_on_the_path(comfy):
    assert hasattr(comfy.stock_nodes(), "CheckpointLoaderSimple")
    assert str(comfy_tree.ROOT) not in sys.path
    assert str(comfy_tree.ROOT / "tests") not in sys.path


@pytest.mark.parametrize(
    ("family", "model_class"),
    [("sd15", "BaseModel"), ("sdxl", "SDXL"), ("sd3", "SD3"), ("flux", "Flux"), ("wan", "WAN21")],
)
def test_the_wiring_models_are_what_they_are_named_for(wiring_model, family, model_class):
    assert type(wiring_model(family).model).__name__ == model_class


def test_clones_of_a_wiring_model_share_its_weights_only(wiring_model):
    first, second = wiring_model("sd15"), wiring_model("sd15")
    assert first.model is second.model
    first.set_model_attn2_patch(lambda n, context, value, options: (n, context, value))
    assert "patches" not in second.model_options["transformer_options"]


@pytest.mark.parametrize(
    ("family", "file"),
    [
        ("sd15", "wiring_lora_sd15_kohya.safetensors"),
        ("sd15", "wiring_lora_sd15_processor.safetensors"),
        ("sd15", "wiring_lora_sd15_linear_only.safetensors"),
        ("sdxl", "wiring_lora_sdxl_kohya.safetensors"),
    ],
)
def test_the_stock_loader_patches_the_stated_differences(wiring_model, wiring_files, family, file):
    """ComfyUI's own arithmetic on the file gives the differences that are kept beside it."""
    import comfy.lora
    import comfy.utils

    model = wiring_model(family)
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    loaded = comfy.lora.load_lora(comfy.utils.load_torch_file(str(wiring_files.path(file))), names)
    stated = wiring_files.deltas(file)
    assert set(loaded) == set(stated)
    for key, adapter in loaded.items():
        zero = torch.zeros_like(stated[key])
        made = comfy.lora.calculate_weight([(1.0, adapter, 1.0, None, None)], zero, key)
        torch.testing.assert_close(made, stated[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["tucker", "dora", "loha", "lokr"])
def test_the_stock_loader_knows_the_other_adapters(wiring_model, wiring_files, kind):
    import comfy.lora
    import comfy.utils

    file = f"wiring_lora_sd15_{kind}.safetensors"
    weights = comfy.utils.load_torch_file(str(wiring_files.path(file)))
    names = comfy.lora.model_lora_keys_unet(wiring_model("sd15").model, {})
    loaded = comfy.lora.load_lora(weights, names)
    assert loaded
    before = {key: wiring_model("sd15").model.state_dict()[key].float() for key in loaded}
    for key, adapter in loaded.items():
        made = comfy.lora.calculate_weight([(1.0, adapter, 1.0, None, None)], before[key].clone(), key)
        change = (made - before[key]).norm() / before[key].norm()
        assert 0.01 < change < 3.0, (key, change)


def test_every_layout_of_one_lora_means_the_same(wiring_files):
    whole = [wiring_files.deltas(f"wiring_lora_sd15_{layout}.safetensors") for layout in ("kohya", "diffusers", "peft")]
    for other in whole[1:]:
        assert set(other) == set(whole[0])


def test_the_truncated_file_cannot_be_read(comfy, wiring_files):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with pytest.raises(SafetensorError):
        load_file(wiring_files.path("wiring_lora_truncated.safetensors"))


def test_all_files_are_there(wiring_files):
    models = {family.file for family in wiring.FAMILIES.values()}
    controls = {family.controlnet for family in wiring.FAMILIES.values() if family.controlnet}
    assert set(wiring_files.files()) == models | controls | set(wiring.LORAS)


def test_an_unknown_file_is_named(wiring_files):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        wiring_files.path("nothing.safetensors")
