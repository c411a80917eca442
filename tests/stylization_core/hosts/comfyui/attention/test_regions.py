"""Regions in sampling runs: which tokens take whose style, and what stays."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

HEADS = 8


# The oracle: the formulas of the sources in plain torch, written without the product's functions.


def pooled(keys, values, count):
    """At most ``count`` tokens of a reference (N, C): k-means on its keys, four rounds, from evenly spread tokens.

    Returns:
        keys, values, and how many tokens each stands for, relative to their mean.
    """
    if len(keys) <= count:
        return keys, values, torch.ones(len(keys))
    centres = [keys[round(place * (len(keys) - 1) / (count - 1))] for place in range(count)]
    for _ in range(4):
        nearest = [min(range(count), key=lambda c: float((key - centres[c]).norm())) for key in keys]
        members = [[n for n, c in enumerate(nearest) if c == cluster] for cluster in range(count)]
        centres = [keys[held].mean(0) if held else centres[c] for c, held in enumerate(members)]
    filled = [c for c in range(count) if members[c]]
    sizes = torch.tensor([float(len(members[c])) for c in filled])
    of_values = [values[members[c]].mean(0) for c in filled]
    return torch.stack([centres[c] for c in filled]), torch.stack(of_values), sizes / sizes.mean()


def attended(q, classes, masks, adaptivity):
    """Each position attends to the tokens of all classes, its own preferred: the softmax written out.

    Args:
        q: (B, N, C). classes: of :func:`pooled`. masks: (B, N, K).
    """
    heads = [
        part.chunk(HEADS, -1)
        for part in (q, torch.cat([k for k, *_ in classes]), torch.cat([v for _, v, _ in classes]))
    ]
    owners = [c for c, (k, *_) in enumerate(classes) for _ in k]
    mass = torch.cat([sizes for *_, sizes in classes])
    own = masks[..., owners]
    bias = torch.where(own > 0, 0.0, -torch.inf) if math.isinf(adaptivity) else adaptivity * (own - 1)
    found = []
    for q_head, k_head, v_head in zip(*heads, strict=True):
        logits = q_head @ k_head.T / math.sqrt(q_head.shape[-1]) + bias + mass.log()
        # a position of no class attends to nothing, and is left out by its mask
        found.append(logits.softmax(-1).nan_to_num(0.0) @ v_head)
    return torch.cat(found, -1)


def mixed(own, styled, masks, strength=1.0):
    """``styled`` by as much as a position belongs to any class."""
    share = strength * masks.sum(-1, keepdim=True)
    return own * (1 - share) + styled * share


def with_moments_of(x, style, weights=None):
    """AdaIN: mean and deviation (of the population) of each channel over the tokens become the style's.

    Args:
        x: (B, N, C). style: (1, M, C). weights: (B, N), how much each token of ``x`` counts; None is all alike.
    """
    weights = torch.ones(x.shape[:2]) if weights is None else weights
    share = (weights / weights.sum(1, keepdim=True))[..., None]
    mean = (share * x).sum(1, keepdim=True)
    std = (share * (x - mean) ** 2).sum(1, keepdim=True).sqrt()
    wanted = style.mean(1, keepdim=True), style.std(1, keepdim=True, unbiased=False)
    return (x - mean) / std * wanted[1] + wanted[0]


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
        tokens.append(pooled(marked.k[0], marked.v[0], 6))
    masks = token_masks(plain.out, *(one.mask for one in regions))
    wanted = mixed(plain.out, attended(plain.q, tokens, masks, adaptivity), masks, 0.7)
    model = rig.effects.regional(micro, *regions, adaptivity=adaptivity, tokens=6, strength=0.7)
    assert rig.sharing.relative(first_layer(rig, model, source)[1].out, wanted) < 1e-5


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_holistic_mode_is_an_injection_per_region(rig, micro, weight):
    regions, source = rig.effects.two_regions(weight=weight), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    masks = token_masks(plain.out, *(one.mask for one in regions))
    wanted = plain.out
    for k, region in enumerate(regions):
        style = of_reference(rig, micro, region.references[0], first).out
        change = with_moments_of(plain.out, style, masks[..., k]) - plain.out
        wanted = wanted + weight * masks[..., k, None] * change
    found = first_layer(rig, rig.effects.regional(micro, *regions, holistic=True), source)[1].out
    assert rig.sharing.relative(found, wanted) < 1e-5


def test_region_of_a_few_tokens_takes_the_whole_pictures_statistics(rig, micro):
    mask = torch.zeros(1, 96, 80)
    mask[:, :8, :24] = 1  # three cells of the latent
    region, source = rig.attention_settings.Region(mask, (rig.sharing.described(),)), rig.runs.latent()
    first, plain = first_layer(rig, micro, source)
    share = token_masks(plain.out, mask)
    assert 0 < share.sum() < 16
    style = of_reference(rig, micro, region.references[0], first).out
    wanted = plain.out + share * (with_moments_of(plain.out, style) - plain.out)
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
    tokens = pooled(marked.k[0, place], marked.v[0, place], 4)
    everywhere = torch.ones(1, 96, 80)
    wanted = attended(plain.q, [tokens], torch.ones(1, plain.q.shape[1], 1), adaptivity=5.0)
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
