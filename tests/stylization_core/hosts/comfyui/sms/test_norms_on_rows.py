"""Differences of norms and biases, as *Extract and Save* writes them, on the rows of a style alone."""

from __future__ import annotations

import pytest
import torch

NORMS = (torch.nn.GroupNorm, torch.nn.LayerNorm)


def extracted(rig, patcher) -> dict:
    """Gain and bias differences of every norm, beside those of the other layers."""
    weights = rig.loras.full(patcher)
    for name, module in patcher.model.diffusion_model.named_modules():
        if isinstance(module, NORMS) and module.weight is not None:
            weights[f"diffusion_model.{name}.diff"] = 0.3 * rig.loras.noise(f"{name}.gain", *module.weight.shape)
            weights[f"diffusion_model.{name}.diff_b"] = 0.3 * rig.loras.noise(f"{name}.bias", *module.bias.shape)
    return weights


def styled_rows(rig, patcher, path, x):
    """Gated predictions and those of ComfyUI's weight-patched and plain model, with what layouts differ by."""
    branch = rig.lora_files.load_style(path, patcher, 0.8)
    pair = rig.runs.pair()
    gated = rig.runs.gated(patcher, branch, pair, rig.runs.FOUR, x)
    style = rig.runs.plain(rig.loras.weight_patched(patcher, path, 0.8), pair, x)
    plain = rig.runs.plain(patcher, pair, x)
    tolerance = rig.runs.layout_tolerance(patcher, pair, x)
    return gated, [style["positive"], style["negative"], plain["positive"], plain["negative"]], tolerance


@pytest.mark.parametrize("kind", ["all", "norms alone"])
def test_rows_equal_the_weight_patched_model(rig, tmp_path, kind):
    patcher = rig.micro.unet()
    weights = extracted(rig, patcher)
    if kind == "norms alone":
        weights = {key: value for key, value in weights.items() if key.startswith("diffusion_model.")}
    assert len([key for key in weights if key.startswith("diffusion_model.")]) > 40
    path = rig.loras.saved(weights, tmp_path / "style.safetensors")
    found, expected, tolerance = styled_rows(rig, patcher, path, rig.runs.drawn(2, 4, 12, 10))
    difference = max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))
    assert (expected[0] - expected[2]).abs().max() > 1e3 * tolerance
    assert difference <= 4 * tolerance, (difference, tolerance)


def test_norms_of_a_style_model_are_lifted(rig, micro, tmp_path):
    path = rig.loras.saved(extracted(rig, micro), tmp_path / "style.safetensors")
    style = rig.loras.weight_patched(micro, path, 0.8)
    lifted = rig.style_source.find_style(micro, style).branch
    assert any(key.endswith("in_layers.0.weight") for key in lifted.deltas)


def test_what_extract_and_save_writes_is_taken(rig, micro, tmp_path, outputs):
    """ComfyUI's own node, on the difference of two checkpoints, with its defaults."""
    from comfy_extras.nodes_lora_extract import calc_lora_model
    from comfy_extras.nodes_model_merging import ModelSubtract

    other = rig.micro.unet(seed=1)
    difference = ModelSubtract().merge(other, micro, 1.0)[0]
    from comfy_extras.nodes_lora_extract import LORAType

    weights = calc_lora_model(
        difference, 4, "diffusion_model.", "diffusion_model.", {}, LORAType.STANDARD, bias_diff=True
    )
    assert any(key.endswith("in_layers.0.diff") for key in weights)
    branch = rig.lora_files.load_style(rig.loras.saved(weights, tmp_path / "style.safetensors"), micro, 1.0)
    kinds = {delta.kind for parts in branch.deltas.values() for delta in parts}
    assert kinds == {"lora", "diff"}


@pytest.mark.parametrize("shape", [(63,), (64, 1), (1, 64, 64)])
def test_a_difference_of_another_shape_is_refused(rig, micro, tmp_path, shape):
    weights = {"diffusion_model.input_blocks.1.0.in_layers.0.diff": torch.randn(shape)}
    with pytest.raises(ValueError, match="input_blocks.1.0.in_layers.0.weight"):
        rig.lora_files.load_style(rig.loras.saved(weights, tmp_path / "style.safetensors"), micro, 1.0)
