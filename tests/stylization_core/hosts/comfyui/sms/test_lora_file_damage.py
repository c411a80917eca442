"""LoRA files that are damaged, or of which a loader would take a part alone: one error that names file and key."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

TARGET = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"


def refusal(rig, weights: dict, path, patcher) -> str:
    with pytest.raises(ValueError) as caught:
        rig.lora_files.load_style(rig.loras.saved(weights, path), patcher, 0.8)
    assert type(caught.value).__name__ == "StylizationError"
    assert str(caught.value).startswith("style.safetensors: ")
    return str(caught.value)


def without(weights: dict, ending: str) -> dict:
    return {key: value for key, value in weights.items() if key != TARGET + ending}


def with_value(weights: dict, ending: str, value) -> dict:
    return {**weights, TARGET + ending: value}


DAMAGES = {
    "up is missing": (lambda w: without(w, ".lora_up.weight"), ".lora_down.weight but not"),
    "down is missing": (lambda w: without(w, ".lora_down.weight"), ".lora_up.weight but not"),
    "rank 0": (
        lambda w: {**w, f"{TARGET}.lora_up.weight": torch.ones(64, 0), f"{TARGET}.lora_down.weight": torch.ones(0, 64)},
        ".lora_up.weight has rank 0",
    ),
    "ranks differ": (
        lambda w: with_value(w, ".lora_up.weight", torch.ones(64, 3)),
        ".lora_up.weight has rank 3 and",
    ),
    "a vector for a matrix": (lambda w: with_value(w, ".lora_up.weight", torch.ones(64)), "has shape [64]"),
    "vector alpha": (lambda w: with_value(w, ".alpha", torch.ones(4)), ".alpha has shape [4]"),
    "NaN": (lambda w: with_value(w, ".lora_up.weight", torch.full((64, 4), float("nan"))), "holds NaN"),
    "infinite, half": (
        lambda w: with_value(w, ".lora_up.weight", torch.full((64, 4), float("inf"), dtype=torch.float16)),
        "holds NaN or infinite",
    ),
    "NaN as alpha": (lambda w: with_value(w, ".alpha", torch.tensor(float("nan"))), ".alpha holds NaN"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_its_name_and_key(rig, micro, tmp_path, damage):
    change, expected = DAMAGES[damage]
    message = refusal(rig, change(rig.loras.kohya(micro)), tmp_path / "style.safetensors", micro)
    assert TARGET in message and expected in message


@pytest.mark.parametrize("layout", ["peft", "diffusers", "loha", "lokr"])
def test_a_missing_factor_of_other_layouts_is_found_too(rig, micro, tmp_path, layout):
    weights = getattr(rig.loras, layout)(micro)
    for key in [next(iter(weights)), list(weights)[1]]:
        left = {name: value for name, value in weights.items() if name != key}
        assert "but not" in refusal(rig, left, tmp_path / "style.safetensors", micro)


# what nobody takes


@pytest.mark.parametrize("ending", [".lora_B.bias", ".unheard_of", ".lora_C.weight"])
def test_kinds_of_weights_for_the_models_layers_that_nobody_takes_are_refused(rig, micro, tmp_path, ending):
    weights = with_value(rig.loras.kohya(micro), ending, torch.ones(64))
    message = refusal(rig, weights, tmp_path / "style.safetensors", micro)
    assert f"1 of its {len(weights)} tensors" in message and TARGET + ending in message
    assert "incomplete" in message


def test_other_keys_that_nobody_takes_are_named_and_the_rest_works(rig, micro, tmp_path, caplog):
    weights = {**rig.loras.kohya(micro), "bundle_emb.word.string_to_param.*": torch.ones(1, 64)}
    weights["lora_te_text_model_encoder_layers_0_mlp_fc1.unheard_of"] = torch.ones(3)
    assert rig.lora_files.load_style(rig.loras.saved(weights, tmp_path / "style.safetensors"), micro, 1.0).deltas
    assert f"style.safetensors: 1 of {len(weights)} tensors are not used, such as bundle_emb" in caplog.text


def test_a_whole_file_warns_of_nothing(rig, micro, tmp_path, caplog):
    for layout in ("kohya", "peft", "diffusers", "tucker", "loha", "lokr", "full"):
        path = rig.loras.saved(getattr(rig.loras, layout)(micro), tmp_path / f"{layout}.safetensors")
        assert rig.lora_files.load_style(path, micro, 1.0).deltas
    assert "not used" not in caplog.text and "not in this model" not in caplog.text


# alpha in the metadata


def scales(rig, branch) -> dict[str, float]:
    """alpha / rank of each layer as the row gate takes it."""
    return {
        key: 1.0 if delta.value.weights[2] is None else delta.value.weights[2] / delta.value.weights[1].shape[0]
        for key, (delta,) in branch.deltas.items()
    }


def described(rig, patcher, path, prefix="unet", **settings) -> str:
    weights = {key: value.contiguous() for key, value in rig.loras.diffusers(patcher).items()}
    adapter = {f"{prefix}.{key}": value for key, value in {"r": 4, "lora_alpha": 8, **settings}.items()}
    save_file(weights, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(adapter)})
    return str(path)


@pytest.mark.parametrize(("rslora", "expected"), [(False, 2.0), (True, 4.0)])
def test_alpha_of_the_metadata_scales_the_layers(rig, micro, tmp_path, rslora, expected):
    """peft: alpha / rank, or alpha / sqrt(rank); the rank is 4."""
    path = described(rig, micro, tmp_path / "style.safetensors", use_rslora=rslora)
    found = scales(rig, rig.lora_files.load_style(path, micro, 1.0))
    assert found and set(found.values()) == {expected}


def test_alpha_pattern_goes_before_alpha(rig, micro, tmp_path):
    path = described(rig, micro, tmp_path / "style.safetensors", alpha_pattern={"attn1.to_q": 12, r"ff\.net\.2": 1})
    found = scales(rig, rig.lora_files.load_style(path, micro, 1.0))
    for key, scale in found.items():
        expected = 3.0 if key.endswith("attn1.to_q.weight") else 0.25 if key.endswith("ff.net.2.weight") else 2.0
        assert scale == expected, key
    assert set(found.values()) == {3.0, 0.25, 2.0}


def test_alpha_of_another_part_and_alphas_of_the_file_itself_stay(rig, micro, tmp_path):
    path = described(rig, micro, tmp_path / "style.safetensors", prefix="text_encoder")
    assert set(scales(rig, rig.lora_files.load_style(path, micro, 1.0)).values()) == {1.0}
    own = tmp_path / "own.safetensors"
    weights = {key: value.contiguous() for key, value in rig.loras.kohya(micro).items()}
    save_file(weights, own, metadata={"lora_adapter_metadata": json.dumps({"lora_alpha": 8})})
    assert set(scales(rig, rig.lora_files.load_style(str(own), micro, 1.0)).values()) == {0.5}


@pytest.mark.parametrize("text", ["{", "[]", '{"unet.lora_alpha": "much"}', '{"unet.lora_alpha": null}'])
def test_metadata_that_cannot_be_read_is_refused(rig, micro, tmp_path, text):
    path = tmp_path / "style.safetensors"
    weights = {key: value.contiguous() for key, value in rig.loras.diffusers(micro).items()}
    save_file(weights, path, metadata={"lora_adapter_metadata": text})
    with pytest.raises(ValueError, match="style.safetensors: its metadata lora_adapter_metadata cannot be read"):
        rig.lora_files.load_style(str(path), micro, 1.0)
