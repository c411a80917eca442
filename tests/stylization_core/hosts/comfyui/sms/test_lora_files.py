"""LoRA files: what is read, and what is refused with which words."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file


def refusal(rig, path, patcher) -> str:
    """The message with which a file is refused as a style of a model."""
    with pytest.raises(ValueError) as caught:
        rig.lora_files.load_style(str(path), patcher, 0.8)
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


WIRING_LAYOUTS = [
    *(f"sd15_{layout}" for layout in ("kohya", "diffusers", "processor", "peft", "linear_only", "text")),
    *(f"sdxl_{layout}" for layout in ("kohya", "diffusers", "peft")),
]


@pytest.mark.parametrize("layout", WIRING_LAYOUTS)
def test_file_of_each_layout_stands_for_its_weight_differences(rig, wiring_model, wiring_files, layout):
    """Against the dense differences that were written beside each file when it was made."""
    patcher, name = wiring_model(layout.split("_")[0]), f"wiring_lora_{layout}.safetensors"
    expected = wiring_files.deltas(name)
    branch = rig.lora_files.load_style(str(wiring_files.path(name)), patcher, 0.5)
    assert set(branch.deltas) == set(expected)
    for key, (delta,) in branch.deltas.items():
        module = patcher.model.get_submodule(key.removesuffix(".weight"))
        dense = rig.row_gate.full_delta(delta, module, "cpu")
        torch.testing.assert_close(dense, 0.5 * expected[key], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layout", ["tucker", "loha", "lokr"])
def test_lycoris_files_are_taken(rig, wiring_model, wiring_files, layout):
    path = wiring_files.path(f"wiring_lora_sd15_{layout}.safetensors")
    assert rig.lora_files.load_style(str(path), wiring_model("sd15"), 1.0).deltas


def test_dora_is_refused_by_name(rig, wiring_model, wiring_files):
    message = refusal(rig, wiring_files.path("wiring_lora_sd15_dora.safetensors"), wiring_model("sd15"))
    assert message.startswith("wiring_lora_sd15_dora.safetensors: it holds DoRA weights")
    assert "Convert it" in message


def glora(name: str, inputs: int, outputs: int) -> dict:
    shapes = {"a1": (4, inputs), "a2": (inputs, 4), "b1": (4, inputs), "b2": (outputs, 4)}
    return {f"{name}.{part}.weight": torch.randn(shape) for part, shape in shapes.items()}


def oft(name: str, outputs: int) -> dict:
    return {f"{name}.oft_blocks": torch.randn(4, outputs // 4, outputs // 4), f"{name}.alpha": torch.tensor(1.0)}


def boft(name: str, outputs: int) -> dict:
    return {f"{name}.oft_blocks": torch.randn(2, 4, outputs // 4, outputs // 4), f"{name}.alpha": torch.tensor(1.0)}


@pytest.mark.parametrize("kind", ["glora", "oft", "boft", "set"])
def test_adapters_that_depend_on_the_weight_are_refused_by_name(rig, micro, tmp_path, kind):
    target = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    weights = {
        "glora": lambda: glora(target, 64, 64),
        "oft": lambda: oft(target, 64),
        "boft": lambda: boft(target, 64),
        "set": lambda: {f"{target}.set_weight": torch.randn(64, 64)},
    }[kind]()
    path = tmp_path / f"{kind}.safetensors"
    save_file(weights, path)
    message = refusal(rig, path, micro)
    assert message.startswith(f"{kind}.safetensors: it holds {kind} weights")
    assert "attn1.to_q" in message


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_dora_scale_on_other_adapters_is_refused_too(rig, micro, tmp_path, kind):
    weights = getattr(rig.loras, kind)(micro)
    name = next(key for key in weights if "attn1_to_q" in key).split(".")[0]
    weights[f"{name}.dora_scale"] = torch.ones(1, 64)
    message = refusal(rig, rig.loras.saved(weights, tmp_path / "dora.safetensors"), micro)
    assert "it holds DoRA weights" in message


def test_lora_of_another_base_is_refused_with_what_was_found(rig, wiring_model, wiring_files):
    message = refusal(rig, wiring_files.path("wiring_lora_flux_kohya.safetensors"), wiring_model("sd15"))
    assert "none of its 9 tensors" in message
    assert "double_blocks_0_img_attn" in message
    assert "trained for this kind of base model" in message


def test_lora_of_another_width_is_refused_with_both_shapes(rig, wiring_model, wiring_files):
    message = refusal(rig, wiring_files.path("wiring_lora_sd15_wrong_shape.safetensors"), wiring_model("sd15"))
    assert "attn2.to_" in message
    assert "[320, 1024]" in message and "[320, 768]" in message


def test_lora_of_the_text_encoder_alone_is_refused(rig, micro, tmp_path):
    weights = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.randn(8, 4)}
    weights["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.randn(4, 8)
    assert "none of its 2 tensors" in refusal(rig, rig.loras.saved(weights, tmp_path / "te.safetensors"), micro)


def test_change_of_an_embedding_or_of_what_is_no_layer_is_refused_with_its_name(rig, micro, tmp_path, monkeypatch):
    key = "diffusion_model.words.weight"
    monkeypatch.setattr(rig.lora_files.comfy.lora, "model_lora_keys_unet", lambda model, known: {"words": key})
    micro.model.diffusion_model.words = torch.nn.Embedding(8, 4)
    try:
        weights = {"words.diff": torch.randn(8, 4)}
        message = refusal(rig, rig.loras.saved(weights, tmp_path / "words.safetensors"), micro)
    finally:
        del micro.model.diffusion_model.words
    assert f"it changes {key}, which is not" in message


def test_truncated_file_is_refused(rig, wiring_model, wiring_files):
    message = refusal(rig, wiring_files.path("wiring_lora_truncated.safetensors"), wiring_model("sd15"))
    assert message.startswith("wiring_lora_truncated.safetensors: the file cannot be read")
    assert "truncated" in message


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_damaged_file_is_refused(rig, micro, tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    assert f"({len(content)} bytes" in refusal(rig, path, micro)


def test_file_without_tensors_is_refused(rig, micro, tmp_path):
    path = tmp_path / "empty.safetensors"
    save_file({}, path)
    assert "holds no tensors" in refusal(rig, path, micro)


@pytest.mark.parametrize("ending", ["pt", "ckpt", "bin"])
def test_other_file_kinds_are_not_even_opened(rig, micro, tmp_path, ending):
    path = tmp_path / f"style.{ending}"
    assert "only .safetensors" in refusal(rig, path, micro)


def test_tensors_are_not_changed_by_reading(rig, micro, tmp_path):
    weights = rig.loras.peft(micro)
    path = rig.loras.saved(weights, tmp_path / "style.safetensors")
    read = rig.lora_files.read(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_x_to_q.lora_up.weight",
        "unet.down.to_q_lora.up.weight",
        "lora_te_text_model.lora_up.weight",
        "something.else",
    ],
)
def test_names_that_are_known_or_foreign_are_kept(rig, key):
    known = {"lora_unet_x_to_q": "diffusion_model.x", "unet.down.processor.to_q": "diffusion_model.y"}
    assert list(rig.lora_files.normalized({key: 0}, known)) == [key]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("base_model.model.a.to_q.lora_A.weight", "unet.a.processor.to_q.lora_A.weight"),
        ("base_model.model.a.to_q.lora_B.default.weight", "unet.a.processor.to_q.lora_B.weight"),
        ("base_model.model.a.to_out.0.lora_A.weight", "unet.a.processor.to_out.lora_A.weight"),
        ("unet.a.to_out.0.lora.down.weight", "unet.a.processor.to_out.lora.down.weight"),
        ("unet.a.ff.net.0.proj.lora.up.weight", "unet.a.ff.net.0.proj.lora.up.weight"),
        ("a.to_q.lora_B.weight", "unet.a.processor.to_q.lora_B.weight"),
        ("base_model.model.b.lora_A.weight", "diffusion_model.b.lora_A.weight"),
    ],
)
def test_names_of_peft_and_diffusers_become_comfyuis(rig, key, expected):
    known = ("unet.a.processor.to_q", "unet.a.processor.to_out", "unet.a.ff.net.0.proj", "diffusion_model.b")
    assert list(rig.lora_files.normalized({key: 0}, dict.fromkeys(known))) == [expected]


class StandInClip:
    """As much of a CLIP as the text part of a LoRA needs."""

    def __init__(self):
        self.cond_stage_model = torch.nn.Identity()
        self.patches: dict = {}

    def clone(self):
        return StandInClip()

    def add_patches(self, patches, strength):
        self.patches = {"strength": strength, **patches}


def text_part(monkeypatch, rig) -> dict:
    names = {"lora_te_fc1": "clip_l.transformer.fc1.weight"}
    monkeypatch.setattr(rig.lora_files.comfy.lora, "model_lora_keys_clip", lambda model, known: names)
    return {"lora_te_fc1.lora_up.weight": torch.randn(8, 4), "lora_te_fc1.lora_down.weight": torch.randn(4, 8)}


def test_text_part_is_put_on_a_clone_of_clip(rig, monkeypatch, tmp_path):
    path = rig.loras.saved(text_part(monkeypatch, rig), tmp_path / "text.safetensors")
    clip = StandInClip()
    patched = rig.lora_files.load_text(path, clip, 0.6)
    assert patched is not clip and clip.patches == {}
    assert patched.patches["strength"] == 0.6
    assert "clip_l.transformer.fc1.weight" in patched.patches


@pytest.mark.parametrize("strength", [0, 0.0])
def test_clip_itself_comes_back_at_strength_zero(rig, strength):
    clip = StandInClip()
    assert rig.lora_files.load_text("not even there.safetensors", clip, strength) is clip


def test_no_clip_stays_no_clip(rig):
    assert rig.lora_files.load_text("not even there.safetensors", None, 1.0) is None


def test_missing_text_part_is_an_error_only_when_asked_for(rig, monkeypatch, micro, tmp_path):
    text_part(monkeypatch, rig)
    path = rig.loras.saved(rig.loras.kohya(micro), tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match="no text-encoder part"):
        rig.lora_files.load_text(path, StandInClip(), 1.0)


@pytest.mark.parametrize(("foreign", "taken"), [(0, True), (1, True), (3, False)])
def test_file_most_of_whose_layers_are_not_in_the_model_is_refused(rig, micro, tmp_path, caplog, foreign, taken):
    """For each of its own layers so many of some larger model."""
    weights = rig.loras.kohya(micro)
    own = {key.split(".")[0] for key in weights}
    for place in range(foreign * (len(own) - 1)):
        for factor, shape in (("up", (8, 2)), ("down", (2, 8))):
            weights[f"lora_unet_larger_{place}.lora_{factor}.weight"] = torch.zeros(shape)
    path = rig.loras.saved(weights, tmp_path / "larger.safetensors")
    if taken:
        assert rig.lora_files.load_style(path, micro, 1.0).deltas
        assert ("layers are not in this model" in caplog.text) is bool(foreign)
    else:
        assert f"only {len(own)} of its" in refusal(rig, path, micro)
