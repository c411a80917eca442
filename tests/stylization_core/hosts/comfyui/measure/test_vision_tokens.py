"""Patch tokens of ComfyUI's own vision models, random and small."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from stylization_host import vision_networks

NODE = "stylization.stylization_core.hosts.comfyui.measure.vision_tokens"


@pytest.fixture(scope="module")
def vision_tokens(rig):
    return importlib.import_module(NODE)


@pytest.fixture(scope="module")
def material(rig):
    return importlib.import_module("stylization.stylization_core.report.material")


@pytest.fixture(params=list(vision_networks.KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def network(rig, kind, tmp_path):
    return vision_networks.tiny(kind, tmp_path)


def pictures(count: int = 2, height: int = 48, width: int = 96) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def test_tokens_are_the_patches_alone(vision_tokens, network, kind):
    found = vision_tokens.patch_tokens(network, pictures())
    hidden = network.encode_image(pictures(), crop=False)["penultimate_hidden_states"]
    assert found.shape == (2, vision_networks.SIDES[kind] ** 2, 16) and found.dtype == torch.float32
    assert hidden.shape[1] == found.shape[1] + vision_networks.KINDS[kind]
    torch.testing.assert_close(found, hidden[:, vision_networks.KINDS[kind] :].float())


@torch.inference_mode()
def test_a_long_batch_is_the_same_in_parts(vision_tokens, rig, tmp_path):
    network, ticks = vision_networks.tiny("clip", tmp_path), []
    many = pictures(vision_tokens.ROWS + 3)
    found = vision_tokens.patch_tokens(network, many, lambda: ticks.append(1))
    assert len(found) == len(many) and len(ticks) == 2
    torch.testing.assert_close(found[-1:], vision_tokens.patch_tokens(network, many[-1:]), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_whole_picture_is_seen_not_its_centre(vision_tokens, rig, tmp_path):
    network, wide = vision_networks.tiny("clip", tmp_path), pictures(1)
    changed = wide.clone()
    changed[:, :, :16] = 0.0  # what a crop from the centre would not see
    before, after = (vision_tokens.patch_tokens(network, one) for one in (wide, changed))
    assert (before - after).abs().max() > 1e-2


@torch.inference_mode()
def test_a_mask_weighs_the_patches_under_it(vision_tokens, material, rig, tmp_path):
    mask = torch.zeros(1, 48, 96)
    mask[:, :12, 24:72] = 1.0
    given = material.checked(pictures(1), pictures(2), pictures(3, 40, 40), mask)
    found = vision_tokens.token_material(vision_networks.tiny("clip", tmp_path), given)
    assert [len(one) for one in (found.content, found.result, found.exemplars, found.copies)] == [1, 2, 3, 3]
    assert found.mask.reshape(4, 4).tolist() == [[0, 1, 1, 0]] + [[0] * 4] * 3


def hidden(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


BAD = {
    "one token": (hidden(1, 1, 16), "it gives 1 tokens a picture"),
    "no square": (hidden(1, 12 * 20, 16), "it gives 240 tokens a picture"),
    "flat": (hidden(1, 16), "its hidden states are of the shape (1, 16)"),
    "none": (None, "its hidden states are none"),
    "NaN": (hidden(1, 17, 4) * float("nan"), "its tokens are NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_networks_without_patches_are_refused(vision_tokens, case):
    states, message = BAD[case]
    network = SimpleNamespace(encode_image=lambda image, crop: SimpleNamespace(penultimate_hidden_states=states))
    with pytest.raises(ValueError) as caught:
        vision_tokens.patch_tokens(network, pictures(1))
    assert str(caught.value).startswith(f"clip_vision: {message}")


def test_registers_stand_before_the_patches(vision_tokens):
    states = torch.arange(1 + 4 + 9.0).reshape(1, 14, 1)
    network = SimpleNamespace(encode_image=lambda image, crop: SimpleNamespace(penultimate_hidden_states=states))
    assert vision_tokens.patch_tokens(network, pictures(1))[0, :, 0].tolist() == list(range(5, 14))
