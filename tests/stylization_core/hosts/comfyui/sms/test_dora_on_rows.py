"""DoRA on the rows of a style: against peft's formula written out, and against ComfyUI's own loader."""

from __future__ import annotations

import pytest
import torch

SPELLINGS = ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"]


def lengths(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1).norm(dim=1)


def peft_dora(rig, patcher, spelling: str = SPELLINGS[0]) -> tuple[dict, dict]:
    """(file as peft writes it, weights that peft's formula makes: m (W + D) / |W + D| over each output)."""
    weights, expected = rig.loras.peft(patcher), {}
    for theirs, ours in rig.loras.in_diffusers(patcher).items():
        weight = rig.loras.layers(patcher)[ours].weight.detach()
        key = f"base_model.model.{theirs}"
        product = weights[f"{key}.lora_B.weight"].flatten(1) @ weights[f"{key}.lora_A.weight"].flatten(1)
        changed = weight + product.view_as(weight)
        magnitude = lengths(weight) * (1 + 0.3 * rig.loras.noise(f"{ours}.m", len(weight)).clamp(-1, 1))
        weights[f"{key}.{spelling}"] = magnitude if weight.ndim == 2 else magnitude.view(1, -1, 1, 1)
        column = (-1, *[1] * (weight.ndim - 1))
        expected[f"diffusion_model.{ours}.weight"] = (magnitude / lengths(changed)).view(column) * changed
    return weights, expected


def patched_to(patcher, weights: dict, strength: float):
    """A clone whose weights lie on the way to others, by ComfyUI's own patching."""
    clone = patcher.clone()
    own = patcher.model.state_dict()
    clone.add_patches({key: ("diff", (value - own[key],)) for key, value in weights.items()}, strength)
    return clone


def assert_rows_are(rig, patcher, branch, stock) -> None:
    """Two gated predictions are those of a weight-patched model, two those of the plain one."""
    pair, x = rig.runs.pair(), rig.runs.drawn(2, 4, 12, 10)
    found = rig.runs.gated(patcher, branch, pair, rig.runs.FOUR, x)
    style, plain = rig.runs.plain(stock, pair, x), rig.runs.plain(patcher, pair, x)
    tolerance = rig.runs.layout_tolerance(patcher, pair, x)
    expected = [style["positive"], style["negative"], plain["positive"], plain["negative"]]
    difference = max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))
    assert (expected[0] - expected[2]).abs().max() > 1e3 * tolerance
    assert difference <= 8 * tolerance, (difference, tolerance)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_peft_dora_is_pefts_formula_on_the_styles_rows(rig, tmp_path, strength):
    patcher = rig.micro.unet()
    weights, expected = peft_dora(rig, patcher)
    branch = rig.lora_files.load_style(rig.loras.saved(weights, tmp_path / "style.safetensors"), patcher, strength)
    assert set(branch.deltas) == set(expected)
    assert_rows_are(rig, patcher, branch, patched_to(patcher, expected, strength))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_of_the_magnitude_is_taken(rig, micro, tmp_path, caplog, spelling):
    weights, _ = peft_dora(rig, micro, spelling)
    branch = rig.lora_files.load_style(rig.loras.saved(weights, tmp_path / "style.safetensors"), micro, 1.0)
    assert all(delta.magnitude is not None for (delta,) in branch.deltas.values())
    assert "not used" not in caplog.text


@pytest.mark.parametrize("source", ["file", "style_model"])
def test_lycoris_dora_by_output_is_what_comfyuis_loader_makes_of_it(rig, tmp_path, source):
    patcher = rig.micro.unet()
    weights = rig.loras.kohya(patcher)
    for name, layer in rig.loras.layers(patcher).items():
        scale = lengths(layer.weight.detach()) * (
            1 + 0.3 * rig.loras.noise(f"{name}.m", len(layer.weight)).clamp(-1, 1)
        )
        key = "lora_unet_" + name.replace(".", "_")
        weights[f"{key}.dora_scale"] = scale.view(-1, *[1] * (layer.weight.ndim - 1))
    path = rig.loras.saved(weights, tmp_path / "style.safetensors")
    stock = rig.loras.weight_patched(patcher, path, 0.8)
    if source == "file":
        branch = rig.lora_files.load_style(path, patcher, 0.8)
    else:
        branch = rig.style_source.find_style(patcher, stock).branch
    assert_rows_are(rig, patcher, branch, stock)


def test_a_plain_lora_beside_a_dora_adds_to_it(rig, tmp_path):
    patcher = rig.micro.unet()
    weights, expected = peft_dora(rig, patcher)
    plain = rig.loras.saved(rig.loras.full(patcher), tmp_path / "plain.safetensors")
    dora = rig.loras.saved(weights, tmp_path / "dora.safetensors")
    carrying = patcher
    for path in (plain, dora):
        carrying = rig.style_branch.attach(carrying, rig.lora_files.load_style(path, patcher, 1.0))
    stock = rig.loras.weight_patched(patched_to(patcher, expected, 1.0), plain, 1.0)
    assert_rows_are(rig, patcher, rig.style_branch.attached(carrying), stock)


# what rows cannot do is refused by name


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def test_two_doras_on_one_layer(rig, micro, tmp_path):
    path = rig.loras.saved(peft_dora(rig, micro)[0], tmp_path / "style.safetensors")
    twice = micro
    for _ in range(2):
        twice = rig.style_branch.attach(twice, rig.lora_files.load_style(path, micro, 1.0))
    message = refusal(lambda: rig.style_source.find_style(twice))
    assert "two DoRA weights change diffusion_model." in message


def test_a_dora_that_the_base_alone_carries(rig, micro, tmp_path):
    weights = rig.loras.kohya(micro)
    name = next(key.split(".")[0] for key in weights if "attn1_to_q" in key)
    weights[f"{name}.dora_scale"] = torch.ones(64, 1)
    base = rig.loras.weight_patched(micro, rig.loras.saved(weights, tmp_path / "base.safetensors"), 0.8)
    message = refusal(lambda: rig.style_branch.lifted(base, micro))
    assert message.startswith("model: it carries a DoRA (diffusion_model.") and "taken back" in message


def test_a_dora_on_quantized_weights(rig, micro, tmp_path):
    """Their length cannot be taken without their scales."""
    path = rig.loras.saved(peft_dora(rig, micro)[0], tmp_path / "style.safetensors")
    layer = micro.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    message = refusal(lambda: rig.lora_files.load_style(path, micro, 1.0))
    assert message.startswith("style.safetensors: it holds DoRA weights")


def test_a_magnitude_without_factors(rig, micro, tmp_path):
    weights, _ = peft_dora(rig, micro)
    key = next(key for key in weights if key.endswith("attn1.to_q.lora_A.weight")).removesuffix(".lora_A.weight")
    left = {
        name: value
        for name, value in weights.items()
        if not name.startswith(f"{key}.lora_A") and name != f"{key}.lora_B.weight"
    }
    message = refusal(lambda: rig.lora_files.load_style(rig.loras.saved(left, tmp_path / "s.safetensors"), micro, 1.0))
    assert "a DoRA magnitude for diffusion_model." in message
