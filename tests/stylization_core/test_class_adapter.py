"""Trained class tokens against their formula, the loss of their logits, colour classes, and files."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.class_adapter import (
    ClassAdapter,
    LayerAdapter,
    class_logits,
    color_classes,
    mask_loss,
)
from stylization.stylization_core.class_adaptive import ClassTokens
from stylization.stylization_core.trained_injector import TrainedInjector

WIDTH, HEADS = 12, 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(count: int, seed: int = 0, dtype=torch.float32) -> ClassTokens:
    key, value = (drawn(count, WIDTH, seed=seed + part).to(dtype) for part in (1, 2))
    return ClassTokens(key, value, drawn(count, seed=seed + 3).abs())


def shaken(adapter: LayerAdapter) -> LayerAdapter:
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    return adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_untrained_gives_the_tokens_back_bit_for_bit(dtype):
    given = tokens(5, dtype=dtype)
    found = LayerAdapter(WIDTH, 4)(given)
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(given, found, strict=True))


def test_keys_and_values_pass_through_maps_of_their_own():
    adapter, given = shaken(LayerAdapter(WIDTH, 4)), tokens(5)
    found = adapter(given)
    p = dict(adapter.named_parameters())
    for part, letter in (("key", "k"), ("value", "v")):
        x = getattr(given, part)
        wanted = x + x @ p[f"{letter}_down.weight"].T @ p[f"{letter}_up.weight"].T
        torch.testing.assert_close(getattr(found, part), wanted)
    assert torch.equal(found.mass, given.mass)


def test_class_logits_are_head_means_before_the_softmax():
    q, classes = drawn(2, 7, WIDTH, seed=9), [tokens(4), tokens(3, seed=30)]
    found = class_logits(q, classes, HEADS)
    width = WIDTH // HEADS
    for k, one in enumerate(classes):
        per_head = [
            q[..., h * width : (h + 1) * width] @ one.key[:, h * width : (h + 1) * width].T / math.sqrt(width)
            for h in range(HEADS)
        ]
        mean = torch.stack(per_head).mean(0)
        torch.testing.assert_close(found[..., k], mean.exp().mean(-1).log())


def test_mask_loss_falls_where_logits_follow_the_masks():
    masks = F.one_hot(torch.tensor([[0, 1, 2, 0]]), 3).float()
    good, bad = mask_loss(8 * masks - 4, masks), mask_loss(4 - 8 * masks, masks)
    assert good < 0.05 < 3 < bad


def test_colour_classes_find_the_parts_of_a_picture():
    latent = torch.zeros(4, 12, 12)
    latent[0, :, 6:], latent[1, 6:] = 3.0, 3.0
    latent = latent + 0.05 * drawn(4, 12, 12)
    found = color_classes(latent, 4)
    assert torch.equal(found.sum(0), torch.ones(12, 12))
    # away from the blurred borders each quarter is one class of its own
    corners = [found[:, y, x].argmax().item() for y in (1, 10) for x in (1, 10)]
    assert sorted(corners) == [0, 1, 2, 3]
    assert torch.equal(found, color_classes(latent, 4))


def test_every_weight_learns():
    adapter = shaken(LayerAdapter(WIDTH, 4))
    found = adapter(tokens(5))
    (found.key.square().mean() + found.value.square().mean()).backward()
    assert all(p.grad.any() for p in adapter.parameters())


def test_file_gives_back_every_bit_and_is_no_injector(tmp_path):
    made = ClassAdapter.untrained("SDXL", {"output.1.0": WIDTH, "middle.0.0": WIDTH}, seed=3)
    for network in made.layers.values():
        shaken(network)
    path = tmp_path / "one.safetensors"
    made.save(path)
    kept = ClassAdapter.load(path)
    assert kept.family == "SDXL" and kept.parameters().keys() == made.parameters().keys()
    assert all(name.startswith(("caca.output.1.0.", "caca.middle.0.0.")) for name in kept.parameters())
    assert all(torch.equal(kept.parameters()[name], value) for name, value in made.parameters().items())
    with pytest.raises(ValueError, match="it is no file of a training node of this pack"):
        TrainedInjector.load(path)
