"""Half precision, weights cast at use and networks that are only partly loaded, with row gate and references."""

from __future__ import annotations

import pytest
import torch

HALVES = {
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "bf16, computed in fp32": {"dtype": torch.bfloat16, "computed_in": torch.float32},
    "fp16, computed in bf16": {"dtype": torch.float16, "computed_in": torch.bfloat16},
}


@pytest.fixture(params=HALVES)
def half(request, rig):
    return rig.micro.unet(**HALVES[request.param])


@pytest.fixture
def partly(rig, monkeypatch) -> list[bool]:
    """ComfyUI loads half of each network, as with ``--lowvram``; notes whether it did."""
    from comfy.model_patcher import ModelPatcher

    plain, loads = ModelPatcher.load, []

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        plain(self, device_to, self.model_size() // 2, force_patch_weights, False)
        loads.append(self.model.model_lowvram)

    monkeypatch.setattr(ModelPatcher, "load", load)
    return loads


def off(found: torch.Tensor, true: torch.Tensor) -> float:
    return (found.float() - true).square().mean().sqrt().item()


def with_style(rig, model, path):
    return rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8))


def test_gated_rows_are_as_exact_as_weights_with_the_style_in_them(rig, micro, stock, half, path):
    x = rig.runs.drawn(2, 4, 8, 8)
    branch = rig.lora_files.load_style(path, half, 0.8)
    found = rig.runs.gated(half, branch, rig.runs.pair(), rig.runs.FOUR, x)
    true = [rig.runs.plain(model, rig.runs.pair(), x) for model in (stock, micro)]
    patched = [rig.runs.plain(model, rig.runs.pair(), x) for model in (rig.loras.weight_patched(half, path, 0.8), half)]
    for number, (style, key) in enumerate([(0, "positive"), (0, "negative"), (1, "positive"), (1, "negative")]):
        allowed = 1.5 * off(patched[style][key], true[style][key])
        assert off(found[number], true[style][key]) <= allowed


@pytest.mark.parametrize("settings", [{}, {"relevance_floor": 0.1}, {"trained": True}], ids=str)
def test_sms_in_half_precision_goes_where_it_goes_in_float32(rig, styled, half, path, settings):
    source = rig.runs.latent(1, 4, 8, 8)
    true = rig.runs.sms(styled, source, **settings)
    found = rig.runs.sms(with_style(rig, half, path), source, **settings)
    assert found.isfinite().all()
    assert off(found, true) < 0.2 * off(source, true)


@pytest.mark.parametrize("edit", [True, False])
def test_guidance_with_references_in_half_precision(rig, styled, half, path, edit):
    source = rig.runs.latent(1, 4, 8, 8)

    def run(model):
        return rig.ordinary.sample(rig.sharing.shared(rig.ordinary.guided(model, edit=edit)), source)

    true, found = run(styled), run(with_style(rig, half, path))
    assert found.isfinite().all()
    assert off(found, true) < 0.05 * off(source, true)


def test_partly_loaded_networks_give_what_loaded_ones_give(rig, micro, path, partly):
    """Base with a LoRA of its own, patched at use; the style beside it; a reference."""
    source = rig.runs.latent(1, 4, 8, 8)

    def runs(model):
        own = rig.loras.weight_patched(model, path, -0.3)
        styled = rig.style_branch.attach(own, rig.lora_files.load_style(path, own, 0.8))
        yield rig.runs.sms(styled, source)
        yield rig.runs.sms(own, source, rig.loras.weight_patched(own, path, 0.8))
        yield rig.ordinary.sample(rig.sharing.shared(rig.ordinary.guided(styled)), source)
        yield rig.ordinary.sample(styled, source, guider=rig.runs.guider(styled))

    found = list(runs(micro))
    assert partly and all(partly)
    with pytest.MonkeyPatch.context() as whole:
        from comfy.model_patcher import ModelPatcher

        load = ModelPatcher.load.__closure__
        plain = next(cell.cell_contents for cell in load if callable(cell.cell_contents))
        whole.setattr(ModelPatcher, "load", plain)
        expected = list(runs(rig.micro.unet()))
    for one, other in zip(found, expected, strict=True):
        assert rig.runs.moved(other, source) > 0.05
        assert rig.runs.moved(one, other) < 1e-3


def test_partly_loaded_network_with_a_trained_fake_is_refused(rig, micro, path, partly):
    styled = with_style(rig, micro, path)
    with pytest.raises(rig.rows.StylizationError, match="only partly in the GPU's memory"):
        rig.runs.sms(styled, rig.runs.latent(1, 4, 8, 8), trained=True)


def test_nothing_is_left_on_a_partly_loaded_network(rig, micro, path, partly):
    styled = with_style(rig, micro, path)
    rig.runs.sms(styled, rig.runs.latent(1, 4, 8, 8), steps=1)
    before = rig.leaks.network(styled)
    rig.runs.sms(styled, rig.runs.latent(1, 4, 8, 8))
    assert rig.leaks.network(styled) == before
