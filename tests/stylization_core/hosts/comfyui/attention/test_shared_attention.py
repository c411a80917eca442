"""Sharing with references: the arithmetic of the layers inside a loaded model."""

from __future__ import annotations

import pytest
import torch

SETTINGS = {
    "as published": {},
    "weight": {"weight": 2.5},
    "score scale": {"score_scale": 0.6},
    "no AdaIN": {"adain_query": 0.0, "adain_key": 0.0},
    "some AdaIN": {"adain_query": 0.7, "adain_key": 0.2},
    "swap": {"swap": True},
    "swap, AdaIN on queries alone": {"swap": True, "adain_key": 0.0, "weight": 0.4},
}
FIRST = ("input", 1, 0)


def formula(weight=1.0, score_scale=1.0, adain_query=1.0, adain_key=1.0, swap=False) -> dict:
    return {"weights": [weight], "scale": score_scale, "adain": (adain_query, adain_key), "swap": swap}


def reference_layers(rig, model, reference, half: int) -> dict:
    """What the unpatched model sees of the reference alone."""
    prompt = (reference.positive, reference.negative)[half]
    return rig.sharing.features(model, prompt, rig.sharing.noised(model, reference))


@pytest.mark.parametrize(("case", "cfg"), [*((case, 4.5) for case in SETTINGS), ("as published", 1.0)])
def test_every_layer_gives_the_published_formula(rig, micro, calls, case, cfg):
    """Each half with its own half's reference, of another size than the picture; odd batch, odd sizes."""
    reference, how = rig.sharing.described(), SETTINGS[case]
    found = rig.sharing.step_layers(rig.sharing.shared(micro, reference, **how), rig.runs.latent(3, 4, 9, 7), cfg=cfg)
    given = [reference_layers(rig, micro, reference, half) for half in (0, 1)]
    assert len(found) == 7
    for layer, parts in found.items():
        assert sorted(half for half, _ in parts) == ([0] if cfg == 1.0 else [0, 1])
        for half, own in parts:
            assert len(own.out) == 3 and own.k.shape[1] != given[half][layer].k.shape[1]
            expected = rig.sharing.published(own, [given[half][layer]], **formula(**how))
            assert rig.sharing.relative(own.out, expected) < 2e-5
            assert rig.sharing.relative(rig.sharing.attention64(own.q, own.k, own.v), expected) > 1e-2


def test_prompts_of_the_run_stand_in_for_those_of_a_reference_without(rig, micro):
    bare, pair = rig.sharing.reference(), rig.runs.pair()
    told = rig.sharing.reference(positive=pair["positive"], negative=pair["negative"])
    other = rig.sharing.described()
    results = [rig.ordinary.sample(rig.sharing.shared(micro, one), rig.runs.latent()) for one in (bare, told, other)]
    assert torch.equal(results[0], results[1]) and rig.runs.moved(results[1], results[2]) > 1e-3


# several references


def test_several_references_with_weights(rig, micro):
    """Of different sizes, one of them two pictures that each count as a reference."""
    one, two = rig.sharing.described(weight=0.5), rig.sharing.described(draw=23, weight=2.0)
    batch = rig.sharing.Reference(rig.runs.drawn(2, 4, 8, 8, seed=24), one.positive, one.negative, weight=1.5)
    found = rig.sharing.step_layers(rig.sharing.shared(micro, one, two, batch, weight=1.2), rig.runs.latent())
    for half in (0, 1):
        layers = [reference_layers(rig, micro, reference, half) for reference in (one, two, batch)]
        for layer, parts in found.items():
            (own,) = (part for index, part in parts if index == half)
            pair = layers[2][layer]
            given = [layers[0][layer], layers[1][layer], pair.rows(slice(0, 1)), pair.rows(slice(1, 2))]
            expected = rig.sharing.published(own, given, [0.6, 2.4, 1.8, 1.8])
            assert rig.sharing.relative(own.out, expected) < 2e-5


@pytest.mark.parametrize("swap", [False, True])
def test_weight_is_a_number_of_copies(rig, micro, swap):
    """Of the reference itself, of its node's weight, and of nodes one behind another."""
    one, other, source = rig.sharing.described(), rig.sharing.described(draw=23), rig.runs.latent()
    heavy = rig.sharing.described(weight=3.0)
    results = [
        rig.ordinary.sample(model, source)
        for model in (
            rig.sharing.shared(micro, one, one, other, one, swap=swap, norms=True),
            rig.sharing.shared(micro, heavy, other, swap=swap, norms=True),
            rig.sharing.shared(
                rig.sharing.shared(micro, one, weight=3.0, swap=swap, norms=True), other, swap=swap, norms=True
            ),
        )
    ]
    light = rig.ordinary.sample(rig.sharing.shared(micro, one, other, swap=swap, norms=True), source)
    for result in results[1:]:
        assert rig.runs.moved(result, results[0]) < 1e-4 < rig.runs.moved(result, light)


def test_weight_zero_leaves_a_reference_out(rig, micro):
    one, none, source = rig.sharing.described(), rig.sharing.described(draw=23, weight=0.0), rig.runs.latent()
    alone, beside = (rig.sharing.shared(micro, *references) for references in ((one,), (none, one)))
    assert torch.equal(rig.ordinary.sample(alone, source), rig.ordinary.sample(beside, source))


# masks


def halved(rig, *shape: int) -> torch.Tensor:
    mask = torch.zeros(*(shape or (96, 80)))
    mask[..., : mask.shape[-1] // 2] = 1.0
    return mask


def test_mask_of_the_reference_drops_its_tokens(rig, micro):
    """Columns 0 to 6 of 14 count whole and columns 7 by half at the fine layers."""
    mask = torch.zeros(80, 112)
    mask[:, :64] = 1.0
    mask[:, 56:64] = 0.5
    reference = rig.sharing.described(mask=mask)
    found = rig.sharing.step_layers(
        rig.sharing.shared(micro, reference, layers="custom", custom="input.1"), rig.runs.latent()
    )
    weights = torch.zeros(10, 14)
    weights[:, :7], weights[:, 7] = 1.0, 0.5
    for half, own in found[FIRST]:
        given = reference_layers(rig, micro, reference, half)[FIRST]
        q, k = weighted_adain(rig, own.q, given.q, weights), weighted_adain(rig, own.k, given.k, weights)
        keys = torch.cat([k, given.k.double().expand(2, -1, -1)], 1)
        values = torch.cat([own.v.double(), given.v.double().expand(2, -1, -1)], 1)
        bias = torch.cat([torch.zeros(120), weights.flatten().log()]).double()
        expected = rig.sharing.attention64(q, keys, values, bias)
        assert rig.sharing.relative(own.out, expected) < 2e-5


def weighted_adain(rig, x, reference, weights):
    """AdaIN to moments in which tokens count by their weights (unbiased for reliability weights)."""
    share = (weights.flatten().double() / weights.sum())[:, None]
    mean = (share * reference.double()).sum(1, keepdim=True)
    var = (share * (reference.double() - mean) ** 2).sum(1, keepdim=True) / (1 - (share**2).sum())
    return rig.sharing.adain64(x, (mean, var + 1e-5))


def test_mask_of_ones_is_no_mask(rig, micro):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(rig.sharing.shared(micro, rig.sharing.described()), source)
    reference = rig.sharing.described(mask=torch.ones(5, 5))
    assert rig.runs.moved(rig.ordinary.sample(rig.sharing.shared(micro, reference), source), plain) < 1e-4
    target = rig.sharing.shared(micro, rig.sharing.described(), mask=torch.ones(1, 96, 80))
    assert torch.equal(rig.ordinary.sample(target, source), plain)


def test_mask_of_the_picture_blends_the_layers_output(rig, micro, calls):
    """Outside of it the patched layer's output is that of the unpatched model bit for bit."""
    reference, mask = rig.sharing.described(), halved(rig)
    mask[:, 40:48] = 0.25
    model = rig.sharing.shared(micro, reference, mask=mask, layers="custom", custom="input.1")
    found, plain = (rig.sharing.step_layers(one, rig.runs.latent())[FIRST] for one in (model, micro))
    for (half, own), (_, before) in zip(found, plain, strict=True):
        shared = rig.sharing.published(own, [reference_layers(rig, micro, reference, half)[FIRST]])
        out, before, shared = (each.unflatten(1, (12, 10)) for each in (own.out, before.out, shared))
        assert torch.equal(out[:, :, 6:], before[:, :, 6:])
        assert rig.sharing.relative(out[:, :, :5], shared[:, :, :5]) < 2e-5
        assert rig.sharing.relative(out[:, :, 5], 0.75 * before[:, :, 5] + 0.25 * shared[:, :, 5]) < 2e-5
        assert rig.runs.moved(out[:, :, :5], before[:, :, :5]) > 0.05


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nodes_each_in_its_mask_and_one_without(rig, micro, calls, order):
    """Left of the picture the one's reference, right the other's, in the middle that of a node without a mask."""
    references = [rig.sharing.described(draw=draw) for draw in (21, 22, 23)]
    left, right = halved(rig, 96, 80), torch.zeros(96, 80)
    left[:, 32:], right[:, 56:] = 0.0, 1.0
    masks, where = (left, right), {"layers": "custom", "custom": "input.1"}
    model = micro
    for index in order:
        model = rig.sharing.shared(model, references[index], mask=masks[index], **where)
    model = rig.sharing.shared(model, references[2], weight=2.0, **where)
    for half, own in rig.sharing.step_layers(model, rig.runs.latent())[FIRST]:
        given = [reference_layers(rig, micro, reference, half)[FIRST] for reference in references]
        expected = [rig.sharing.published(own, [one], [w]) for one, w in zip(given, (1.0, 1.0, 2.0), strict=True)]
        columns = [slice(0, 4), slice(7, 10), slice(4, 7)]
        out = own.out.unflatten(1, (12, 10))
        for column, each in zip(columns, expected, strict=True):
            assert rig.sharing.relative(out[:, :, column], each.unflatten(1, (12, 10))[:, :, column]) < 2e-5


def test_mask_is_cropped_to_the_area_of_a_prompt(rig, micro, calls):
    reference, mask = rig.sharing.described(), halved(rig)
    pair = {"positive": rig.runs.conditioning(1, area=(8, 6, 2, 3)), "negative": rig.runs.conditioning(2)}
    model = rig.sharing.shared(micro, reference, mask=mask, layers="custom", custom="input.1")
    parts = rig.sharing.step_layers(model, rig.runs.latent(), conditionings=pair)[FIRST]
    # ComfyUI asks for the area under the negative prompt too
    assert sorted((half, own.q.shape[1]) for half, own in parts) == [(0, 48), (1, 48), (1, 120)]
    for half, own in parts:
        shared = rig.sharing.published(own, [reference_layers(rig, micro, reference, half)[FIRST]])
        plain = rig.sharing.attention64(own.q, own.k, own.v)
        grid, edge = ((8, 6), 2) if own.q.shape[1] == 48 else ((12, 10), 5)
        out, shared, plain = (each.unflatten(1, grid) for each in (own.out, shared, plain))
        assert rig.sharing.relative(out[:, :, :edge], shared[:, :, :edge]) < 2e-5
        assert rig.sharing.relative(out[:, :, edge:], plain[:, :, edge:]) < 2e-5


def test_mask_per_picture(rig, micro):
    masks = torch.stack([torch.zeros(96, 80), torch.ones(96, 80)])
    source, reference = rig.runs.latent(), rig.sharing.described()
    found = rig.ordinary.sample(rig.sharing.shared(micro, reference, mask=masks, norms=True), source)
    plain, shared = (rig.ordinary.sample(m, source) for m in (micro, rig.sharing.shared(micro, reference, norms=True)))
    assert rig.runs.moved(found[0], plain[0]) < 1e-4 and rig.runs.moved(found[1], shared[1]) < 1e-4
    assert rig.runs.moved(plain, shared) > 0.05


# halves, layers


def test_positive_half_alone(rig, micro, calls):
    """The negative prediction is the unpatched model's own."""
    source, model = rig.runs.latent(), rig.sharing.shared(micro, rig.sharing.described(), both=False, norms=True)
    positive, negative = rig.sharing.predictions(model, source)
    plain = rig.sharing.predictions(micro, source)
    both = rig.sharing.predictions(rig.sharing.shared(micro, rig.sharing.described(), norms=True), source)
    assert rig.runs.moved(negative, plain[1]) < 1e-5 < rig.runs.moved(both[1], plain[1])
    assert rig.runs.moved(positive, both[0]) < 1e-5 < rig.runs.moved(positive, plain[0])


def test_nodes_for_different_halves_keep_their_settings(rig, micro):
    one, other, source = rig.sharing.described(), rig.sharing.described(draw=23), rig.runs.latent()
    first = rig.sharing.shared(micro, one, adain_query=0.3, adain_key=0.0)
    _, alone = rig.sharing.predictions(first, source)
    _, found = rig.sharing.predictions(rig.sharing.shared(first, other, both=False, swap=True), source)
    assert torch.equal(found, alone)


def test_nodes_for_different_layers_keep_their_settings(rig, micro):
    one, other = rig.sharing.described(), rig.sharing.described(draw=23)
    where = {"layers": "custom", "custom": "input.1"}
    first = rig.sharing.shared(micro, one, **where, adain_query=0.3, adain_key=0.0)
    both = rig.sharing.shared(first, other, layers="custom", custom="middle", swap=True)
    alone, found = (rig.sharing.step_layers(model, rig.runs.latent())[FIRST] for model in (first, both))
    assert all(torch.equal(a.out, b.out) for (_, a), (_, b) in zip(alone, found, strict=True))


def test_only_chosen_layers_share(rig, micro):
    reference = rig.sharing.described()
    model = rig.sharing.shared(micro, reference, layers="custom", custom="middle, output.1-2")
    for layer, parts in rig.sharing.step_layers(model, rig.runs.latent()).items():
        chosen = layer[0] == "middle" or layer[:2] in (("output", 1), ("output", 2))
        for half, own in parts:
            plain = rig.sharing.attention64(own.q, own.k, own.v)
            shared = rig.sharing.published(own, [reference_layers(rig, micro, reference, half)[layer]])
            assert rig.sharing.relative(own.out, shared if chosen else plain) < 2e-5
            assert rig.sharing.relative(shared, plain) > 1e-2
