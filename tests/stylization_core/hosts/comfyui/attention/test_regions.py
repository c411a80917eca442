"""Regions in sampling runs: which tokens take whose style, and what stays."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.class_adaptive import blended, class_attention, class_tokens
from stylization.stylization_core.holistic import injected, statistics

HEADS = 8


def sdpa(q, k, v):
    split = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    return F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(-2)


def first_layer(rig, model, source):
    found = rig.sharing.features(model, rig.runs.pair()["positive"], source)
    first = min(found)
    return first, found[first]


def of_reference(rig, model, reference, layer):
    return rig.sharing.features(model, reference.positive, rig.sharing.noised(model, reference))[layer]


def token_masks(out, *masks):
    height, width = 12, 10
    while height * width > out.shape[1]:
        height, width = -(-height // 2), -(-width // 2)
    latent = [F.adaptive_avg_pool2d(mask[None], (12, 10)) for mask in masks]
    grids = [F.adaptive_avg_pool2d(one, (height, width)) for one in latent]
    return torch.cat([one.flatten(2) for one in grids], 1).transpose(1, 2)


# off


def test_off_is_the_models_own_output_bit_for_bit(rig, micro):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(micro, source)
    regions = rig.effects.two_regions()
    for settings in ({"strength": 0.0}, {"start": 1.0, "end": 0.0}):
        assert torch.equal(rig.ordinary.sample(rig.effects.regional(micro, *regions, **settings), source), plain)
    dialled = rig.attachments.at_dial(rig.effects.regional(micro, *regions), 0.0)
    assert torch.equal(rig.ordinary.sample(dialled, source), plain)
    assert not torch.equal(rig.ordinary.sample(rig.effects.regional(micro, *regions), source), plain)


# what


@pytest.mark.parametrize("adaptivity", [0.0, 5.0, math.inf])
def test_attention_of_the_first_layer_is_the_formula(rig, micro, adaptivity):
    regions, source = rig.effects.two_regions(), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    tokens = []
    for region in regions:
        marked = of_reference(rig, micro, region.references[0], first)
        tokens.append(class_tokens(marked.k[0], marked.v[0], count=6))
    masks = token_masks(plain.out, *(one.mask for one in regions))
    seen = class_attention(plain.q, tokens, masks, HEADS, sdpa, weights=[1.0, 1.0], adaptivity=adaptivity)
    wanted = blended(plain.out, seen, masks, 0.7)
    model = rig.effects.regional(micro, *regions, adaptivity=adaptivity, tokens=6, strength=0.7)
    assert rig.sharing.relative(first_layer(rig, model, source)[1].out, wanted) < 1e-5


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_holistic_mode_is_an_injection_per_region(rig, micro, weight):
    regions, source = rig.effects.two_regions(weight=weight), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    masks = token_masks(plain.out, *(one.mask for one in regions))
    wanted = plain.out
    for k, region in enumerate(regions):
        style = statistics(of_reference(rig, micro, region.references[0], first).out)
        own = {"strength": weight * masks[..., k, None], "weights": masks[..., k]}
        wanted = wanted + injected(plain.out, style, tone=0.0, **own) - plain.out
    found = first_layer(rig, rig.effects.regional(micro, *regions, holistic=True), source)[1].out
    assert rig.sharing.relative(found, wanted) < 1e-5


def test_region_of_a_few_tokens_takes_the_whole_pictures_statistics(rig, micro):
    mask = torch.zeros(1, 96, 80)
    mask[:, :8, :24] = 1  # three cells of the latent
    region, source = rig.attention_settings.Region(mask, (rig.sharing.described(),)), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    share = token_masks(plain.out, mask)
    assert 0 < share.sum() < 16
    style = statistics(of_reference(rig, micro, region.references[0], first).out)
    wanted = injected(plain.out, style, tone=0.0, strength=share)
    found = first_layer(rig, rig.effects.regional(micro, region, holistic=True), source)[1].out
    assert rig.sharing.relative(found, wanted) < 1e-5


def test_mask_of_a_reference_leaves_its_other_tokens_out(rig, micro):
    kept = torch.zeros(10, 14)
    kept[:, :7] = 1
    reference, source = rig.sharing.described(mask=kept), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    marked = of_reference(rig, micro, reference, first)
    place = F.adaptive_avg_pool2d(kept[None, None], (10, 14)).flatten() > 0
    assert marked.k.shape[1] == len(place)
    tokens = class_tokens(marked.k[0, place], marked.v[0, place], count=4)
    everywhere = torch.ones(1, 96, 80)
    wanted = class_attention(plain.q, [tokens], torch.ones(1, plain.q.shape[1], 1), HEADS, sdpa)
    model = rig.effects.regional(micro, rig.attention_settings.Region(everywhere, (reference,)), tokens=4)
    assert rig.sharing.relative(first_layer(rig, model, source)[1].out, wanted) < 1e-4


# where


@pytest.mark.parametrize("holistic", [False, True])
def test_tokens_of_no_region_stay_bit_for_bit(rig, micro, holistic):
    upper, _ = rig.effects.upper_and_lower()
    source = rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    region = rig.attention_settings.Region(upper, (rig.sharing.described(),))
    found = first_layer(rig, rig.effects.regional(micro, region, holistic=holistic), source)[1].out
    inside = token_masks(plain.out, upper)[0, :, 0] > 0
    assert torch.equal(found[:, ~inside], plain.out[:, ~inside]) and (found[:, inside] != plain.out[:, inside]).any()


def test_region_without_a_reference_stays_and_keeps_others_out(rig, micro):
    """It lies over half of a region that covers everything: they share the place, and half of it is free."""
    upper, _ = rig.effects.upper_and_lower()
    source, everywhere = rig.runs.latent(), torch.ones(1, 96, 80)
    reference = rig.sharing.described()
    whole = rig.attention_settings.Region(everywhere, (reference,))
    empty = rig.attention_settings.Region(upper)
    _, plain = first_layer(rig, micro, source)
    _, alone = first_layer(rig, rig.effects.regional(micro, whole), source)
    _, shared = first_layer(rig, rig.effects.regional(micro, whole, empty), source)
    inside = token_masks(plain.out, upper)[0, :, 0] == 1
    expected = torch.lerp(plain.out, alone.out, 0.5)
    assert rig.runs.moved(shared.out[:, inside], expected[:, inside]) < 1e-4
    outside = token_masks(plain.out, upper)[0, :, 0] == 0
    assert rig.runs.moved(shared.out[:, outside], alone.out[:, outside]) < 1e-5


def test_empty_and_tiny_regions_are_harmless(rig, micro):
    tiny = torch.zeros(1, 96, 80)
    tiny[:, :3, :3] = 1
    regions = [
        *rig.effects.two_regions(),
        rig.attention_settings.Region(torch.zeros(1, 96, 80), (rig.sharing.described(draw=5),)),
    ]
    regions.append(rig.attention_settings.Region(tiny, (rig.sharing.described(draw=6),)))
    for holistic in (False, True):
        found = rig.ordinary.sample(rig.effects.regional(micro, *regions, holistic=holistic), rig.runs.latent())
        assert found.isfinite().all()


def test_masks_may_have_another_size_and_a_row_per_picture(rig, micro):
    upper, lower = rig.effects.upper_and_lower()
    reference, source = rig.sharing.described(), rig.runs.latent()
    small = F.interpolate(upper[None], (24, 20))[0]
    one = rig.ordinary.one_step(rig.effects.regional(micro, rig.attention_settings.Region(upper, (reference,))), source)
    other = rig.ordinary.one_step(
        rig.effects.regional(micro, rig.attention_settings.Region(small, (reference,))), source
    )
    assert rig.runs.moved(one, other) < 1e-5
    both = torch.cat([upper, lower])
    rows = rig.ordinary.one_step(rig.effects.regional(micro, rig.attention_settings.Region(both, (reference,))), source)
    assert rig.runs.moved(rows[:1], one[:1]) < 1e-4 and rig.runs.moved(rows[1:], one[1:]) > 1e-3


def test_feathered_borders_are_softer_and_stay_a_partition(rig):
    from stylization.stylization_core.hosts.comfyui.attention.class_adaptive import soft_partition

    upper = torch.zeros(1, 1, 12, 10)
    upper[:, :, :6] = 1
    hard, soft = (soft_partition([upper, 1 - upper], feather) for feather in (0.0, 1.0))
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert len(soft.unique()) > 4 and torch.allclose(soft.sum(1), torch.ones(1, 12, 10))
    assert soft[0, 0, 0, 0] == pytest.approx(1, abs=1e-3) and soft[0, 0, 5, 0] > 0.5 > soft[0, 0, 6, 0]


def test_negative_half_can_be_left_alone(rig, micro, monkeypatch):
    asked = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.one_step(rig.effects.regional(micro, *rig.effects.two_regions(), negative=0.0), rig.runs.latent())
    assert sum(x.shape[-2:] == (10, 14) for x, _, _ in asked) == 2


# layout and others


@pytest.mark.parametrize("holistic", [False, True])
def test_rows_do_not_depend_on_the_layout(rig, micro, monkeypatch, holistic):
    model, source = rig.effects.regional(micro, *rig.effects.two_regions(), holistic=holistic), rig.runs.latent()
    allowed = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), source) + 1e-5
    together = rig.ordinary.one_step(model, source)
    rig.runs.split_calls(monkeypatch, micro)
    assert rig.runs.moved(rig.ordinary.one_step(model, source), together) <= allowed


def test_cached_references_give_the_same(rig, micro):
    from stylization.stylization_core.hosts.comfyui.references.record_cache import RecordCache

    everywhere = torch.ones(1, 96, 80)
    cache = RecordCache(2**30)
    region = rig.attention_settings.Region(everywhere, (rig.sharing.described(cache=cache),))
    first = rig.ordinary.sample(rig.effects.regional(micro, region), rig.runs.latent())
    assert cache.used and torch.equal(
        rig.ordinary.sample(rig.effects.regional(micro, region), rig.runs.latent()), first
    )


def test_nothing_is_left_on_the_model(rig, micro):
    before, plain = rig.leaks.state(micro), rig.ordinary.sample(micro, rig.runs.latent())
    model = rig.effects.regional(micro, *rig.effects.two_regions())
    rig.ordinary.sample(model, rig.runs.latent())
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.ordinary.sample(model, rig.runs.latent(), callback=rig.endings.interrupting_at(1))
    assert torch.equal(rig.ordinary.sample(micro, rig.runs.latent()), plain)
    assert rig.leaks.state(micro) == before
