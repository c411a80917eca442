"""What regularizer, refiner and guidance refuse in runs of ComfyUI's own samplers."""

from __future__ import annotations

import pytest
import torch


def refusal(rig, model, source, **settings) -> str:
    with pytest.raises(ValueError) as caught:
        rig.ordinary.sample(model, source, **settings)
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def named(rig, model, **settings):
    """Regularizer and refiner with the same content, under their display names."""
    mask = torch.zeros(1, 96, 80)
    return {
        "Stylize Spectrum Regularizer": rig.ordinary.held(model, **settings),
        "Stylize Semantic Refiner": rig.ordinary.refined(model, mask=mask, **settings),
    }


@pytest.mark.parametrize("shape", [(1, 4, 12, 12), (1, 16, 12, 10), (3, 4, 12, 10)])
def test_content_that_does_not_fit_is_refused_with_both_shapes(rig, micro, shape):
    for name, made in named(rig, micro, content=torch.ones(shape)).items():
        message = refusal(rig, made, rig.runs.latent())
        assert message.startswith(f"{name}, content: its latent is {shape}, the run's is (2, 4, 12, 10).")
        assert "VAE of this model" in message


def test_empty_latent_is_refused_by_name(rig, micro, styled):
    empty = torch.zeros(1, 4, 12, 10)
    nodes = {**named(rig, micro), "Stylize SMS Guidance": rig.ordinary.guided(styled, edit=True)}
    for name, made in nodes.items():
        message = refusal(rig, made, empty)
        # guidance has no input for a content of its own
        subject = "latent_image" if name == "Stylize SMS Guidance" else "content"
        assert message.startswith(f"{name}, {subject}: the run starts from an empty latent")
        assert f"VAE Encode of your picture to {subject}" in message


def test_add_does_not_need_a_picture(rig, styled):
    empty = torch.zeros(1, 4, 8, 8)
    found = rig.ordinary.sample(rig.ordinary.guided(styled, edit=False), empty)
    assert rig.runs.moved(found, rig.ordinary.sample(styled, empty)) > 0.05


def test_mask_of_another_aspect_is_refused_by_name(rig, micro):
    message = refusal(rig, rig.ordinary.refined(micro, mask=torch.ones(1, 64, 64)), rig.runs.latent())
    assert message.startswith("Stylize Semantic Refiner, mask: it is 64x64 pixels, the picture about 80x96.")


def test_second_node_of_a_kind_is_refused(rig, styled):
    attach, holds, score = rig.attachments.attach_once, rig.sms_settings, rig.guidance_settings
    keys = {
        holds.SPECTRUM: "Stylize Spectrum Regularizer",
        holds.REFINEMENT: "Stylize Semantic Refiner",
        score.GUIDANCE: "Stylize SMS Guidance",
    }
    for key, node in keys.items():
        once = attach(styled, key, object(), node)
        with pytest.raises(ValueError) as caught:
            attach(once, key, object(), node)
        assert str(caught.value) == (
            f"model: it has gone through a '{node}' already. Keep one '{node}' on the way to the sampler."
        )
        assert styled.get_attachment(key) is None


def test_refused_content_closes_the_second_model_too(rig, micro, path):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    made = rig.ordinary.held(rig.ordinary.guided(micro, second), content=torch.ones(1, 4, 5, 5))
    refusal(rig, made, rig.runs.latent())
    assert second.model.current_patcher is None
