"""Which models are taken and which are refused by name."""

from __future__ import annotations

import types

import pytest
import torch


@pytest.mark.parametrize(("name", "family"), [("sd15", "SD"), ("sdxl", "SDXL")])
def test_unets_are_known(rig, wiring_model, name, family):
    assert rig.families.detect(wiring_model(name)) == rig.families.Family(family, unet=True, flow=False)


def test_flow_models_are_known(rig, wiring_model):
    assert rig.families.detect(wiring_model("sd3")) == rig.families.Family("SD3", False, True)
    assert rig.families.detect(rig.micro.flux()) == rig.families.Family("Flux", False, True)


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
def test_prediction_type_of_a_unet_does_not_matter(rig, prediction):
    assert rig.families.detect(rig.micro.unet(prediction=prediction)).name == "SD"


def test_sampling_replaced_on_the_model_is_what_counts(rig):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    patcher = ModelSamplingFlux().patch(rig.micro.flux(), 1.15, 0.5, 512, 512)[0]
    assert rig.families.detect(patcher).flow


def test_video_model_is_refused_by_name(rig, wiring_model):
    with pytest.raises(ValueError) as caught:
        rig.families.detect(wiring_model("wan"), subject="style_model")
    message = str(caught.value)
    assert message.startswith("style_model:")
    assert "WAN21" in message
    assert "SDXL" in message


def unbuilt(kind: type) -> torch.nn.Module:
    """An instance without its network."""
    module = object.__new__(kind)
    torch.nn.Module.__init__(module)
    return module


@pytest.mark.parametrize("name", ["SVD_img2vid", "SV3D_u", "StableCascade_B", "StableCascade_C", "HunyuanVideo"])
def test_relatives_that_share_code_are_refused_by_name(rig, name):
    kinds = rig.families.families
    model = unbuilt(getattr(kinds, name))
    model.diffusion_model = unbuilt(rig.families.UNetModel) if name != "HunyuanVideo" else torch.nn.Identity()
    model.latent_format = types.SimpleNamespace(latent_dimensions=2)
    patcher = types.SimpleNamespace(model=model, get_model_object=lambda _: None)
    with pytest.raises(ValueError, match=name):
        rig.families.detect(patcher)
