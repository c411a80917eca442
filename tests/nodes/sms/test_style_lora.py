"""StylizeStyleLoRA in process."""

from __future__ import annotations

import importlib

import pytest

KOHYA = "wiring_lora_sd15_kohya.safetensors"


@pytest.fixture(scope="module")
def style_lora(pack_nodes):
    return importlib.import_module("stylization.nodes.sms.style_lora")


def execute(style_lora, model, name=KOHYA, strength=0.8, clip_strength=0.0, clip=None):
    return style_lora.StylizeStyleLoRA.execute(
        model, lora_name=name, strength=strength, clip_strength=clip_strength, clip=clip
    ).result


def refusal(style_lora, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        execute(style_lora, *args, **kwargs)
    message = str(caught.value)
    assert message.startswith("Stylize Style LoRA, ")
    return message


def test_model_carries_the_style_and_keeps_its_weights(rig, style_lora, wiring_model):
    model = wiring_model("sd15")
    before = rig.leaks.patcher_state(model)
    styled, clip = execute(style_lora, model)
    branch = rig.style_branch.attached(styled)
    assert branch.label == KOHYA
    assert {delta.strength for parts in branch.deltas.values() for delta in parts} == {0.8}
    assert styled.model is model.model and styled.patches == {}
    assert rig.leaks.patcher_state(model) == before
    assert clip is None


def test_strength_zero_is_the_model_itself(style_lora, wiring_model):
    model, clip = wiring_model("sd15"), object()
    assert execute(style_lora, model, strength=0, clip=clip) == (model, clip)


def test_two_in_a_row_add_up(rig, style_lora, wiring_model):
    once, _ = execute(style_lora, wiring_model("sd15"))
    twice, _ = execute(style_lora, once, "wiring_lora_sd15_linear_only.safetensors", 0.3)
    assert "wiring_lora_sd15_linear_only" in rig.style_branch.attached(twice).label
    assert "wiring_lora_sd15_linear_only" not in rig.style_branch.attached(once).label


def test_list_holds_safetensors_files_only(style_lora, monkeypatch):
    names = ["a.safetensors", "b.pt", "sub/c.safetensors"]
    monkeypatch.setattr(style_lora.folder_paths, "get_filename_list", lambda folder: names)
    assert style_lora.lora_files() == ["a.safetensors", "sub/c.safetensors"]


def test_wiring_files_are_in_the_list(style_lora):
    assert KOHYA in style_lora.lora_files()


def test_file_that_is_gone_names_the_input(style_lora, wiring_model):
    message = refusal(style_lora, wiring_model("sd15"), "gone.safetensors")
    assert "lora_name: 'gone.safetensors' is not among its choices. Choose one of: " in message


@pytest.mark.parametrize(
    ("family", "name", "found"),
    [
        ("sd15", "wiring_lora_flux_kohya.safetensors", "belongs to this model"),
        ("sd15", "wiring_lora_sd15_wrong_shape.safetensors", "have shape"),
        ("sd15", "wiring_lora_sd15_dora.safetensors", "DoRA"),
        ("sd15", "wiring_lora_truncated.safetensors", "truncated"),
        ("wan", KOHYA, "WAN21"),
    ],
)
def test_bad_input_names_node_subject_and_remedy(style_lora, wiring_model, family, name, found):
    message = refusal(style_lora, wiring_model(family), name)
    assert found in message
    assert (name if family == "sd15" else "model: ") in message


def test_changed_file_is_read_again(style_lora, wiring_files, monkeypatch, tmp_path):
    import os

    path = tmp_path / "style.safetensors"
    path.write_bytes(wiring_files.path(KOHYA).read_bytes()[:64])
    monkeypatch.setattr(style_lora.folder_paths, "get_full_path", lambda folder, name: str(path))
    arguments = {"lora_name": "style.safetensors", "strength": 0.8, "clip_strength": 0.0}
    before = style_lora.StylizeStyleLoRA.fingerprint_inputs(**arguments)
    assert before == style_lora.StylizeStyleLoRA.fingerprint_inputs(**arguments)
    os.utime(path, (1, 1))
    assert style_lora.StylizeStyleLoRA.fingerprint_inputs(**arguments) != before


def test_missing_file_has_no_fingerprint(style_lora):
    assert style_lora.StylizeStyleLoRA.fingerprint_inputs(lora_name="gone.safetensors") is None
