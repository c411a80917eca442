"""Models with which no fake score is trained."""

from __future__ import annotations

import sys

import pytest
import torch


def refused(rig, trial, patcher, *words: str) -> None:
    def body(trial):
        with pytest.raises(ValueError, match=".*".join(("^model:", *words, "frozen"))):
            rig.trained_fake.refuse_untrainable(patcher)

    trial(patcher, body)


def test_loaded_models_of_the_supported_families_are_not_refused(rig, of_family, family):
    of_family(family, lambda trial: rig.trained_fake.refuse_untrainable(trial.patcher))


@pytest.mark.parametrize("sign", ["lowvram", "patched", "smaller"])
def test_partly_offloaded_model_is_refused(rig, trial, monkeypatch, sign):
    patcher = rig.micro.unet()

    def body(trial):
        rig.trained_fake.refuse_untrainable(patcher)
        if sign == "lowvram":
            monkeypatch.setattr(patcher.model, "model_lowvram", True)
        elif sign == "patched":
            monkeypatch.setattr(patcher.model, "lowvram_patch_counter", 3)
        else:
            monkeypatch.setattr(patcher.model, "model_loaded_weight_memory", 2**20)
        with pytest.raises(ValueError, match=r"^model: it is only partly in .*\d+ of 16 MiB.*frozen"):
            rig.trained_fake.refuse_untrainable(patcher)

    trial(patcher, body)


def test_dynamic_vram_is_refused(rig, trial, monkeypatch):
    patcher = rig.micro.unet()
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True, raising=False)
    refused(rig, trial, patcher, "dynamic VRAM")


class Packed(torch.Tensor):
    """As GGUF packs and ComfyUI's quantised checkpoints have it: a tensor class that says float."""


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.zeros(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(2, dtype=torch.int8), "int8"),
        (torch.zeros(2).as_subclass(Packed), "Packed"),
    ],
)
def test_quantised_weights_are_refused(rig, weight, words):
    """Not inside a run: a network of a real quantised checkpoint would run, this one cannot."""
    patcher = rig.micro.unet()
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    patcher.model.diffusion_model.out[2].bias = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ValueError, match=f"^model: its weights are quantised.*out.2.bias.*{words}.*frozen"):
        rig.trained_fake.refuse_untrainable(patcher)


def test_compiled_network_is_refused(rig, trial):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model.middle_block[1] = torch.compile(patcher.model.diffusion_model.middle_block[1])
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    with pytest.raises(ValueError, match="^model: its network is compiled.*frozen"):
        rig.trained_fake.refuse_untrainable(patcher)


def test_comfyuis_compile_node_is_refused(rig):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patcher = rig.micro.unet()
    set_torch_compile_wrapper(patcher, backend="eager")
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    with pytest.raises(ValueError, match="^model: its network is compiled.*frozen"):
        rig.trained_fake.refuse_untrainable(patcher)


def test_network_without_attention_projections_is_refused(rig):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3))
    patcher.size = patcher.model.model_loaded_weight_memory = 1
    with pytest.raises(ValueError, match="^model: its network has no layers named to_q, to_v.*frozen"):
        rig.trained_fake.refuse_untrainable(patcher)


def test_lora_hook_on_a_prompt_is_refused(rig, trial):
    import comfy.hooks

    def body(trial):
        fake, group = trial.fake(), comfy.hooks.HookGroup()
        group.add(comfy.hooks.WeightHook())
        for entry in trial.guider.conds["positive"]:
            entry["hooks"] = group
        for ask in (trial.predict, trial.train):
            with pytest.raises(ValueError, match="LoRA hook.*'Load LoRA'"):
                ask(fake)

    trial(rig.micro.unet(), body)


@pytest.mark.parametrize("with_weights", [False, True])
def test_node_that_answers_for_the_network_is_refused(rig, trial, with_weights):
    """A step cache: its answer depends on nothing that could be trained here."""
    patcher, gain = rig.micro.unet(), torch.ones((), requires_grad=with_weights)

    def answer(executor, x, *args, **kwargs):
        return x * gain

    patcher.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.cache", answer)

    def body(trial):
        with pytest.raises(ValueError, match="^model: a node on it replaces.*frozen"):
            trial.train(trial.fake())

    trial(patcher, body)


def test_network_that_cannot_be_copied_is_refused(rig, trial):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model.handle = (one for one in ())

    def body(trial):
        with pytest.raises(ValueError, match="^model: its network cannot be copied.*frozen"):
            trial.fake()

    trial(patcher, body)


def test_a_missing_peft_is_named_with_the_command_that_brings_it(rig, trial, monkeypatch):
    patcher = rig.micro.unet()

    def body(trial):
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(ValueError, match=r'^fake_score: .*peft.* -m pip install "peft>=[0-9.]+"`.*frozen'):
            rig.trained_fake.refuse_untrainable(patcher)

    trial(patcher, body)
