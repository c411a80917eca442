"""Sharing with the first picture of the batch."""

from __future__ import annotations

import pytest
import torch

FORMS = {
    "as published": {},
    "weight": {"weight": 2.5},
    "score scale": {"score_scale": 0.6},
    "some AdaIN": {"adain_query": 0.7, "adain_key": 0.2},
    "swap": {"swap": True},
    "norms": {"norms": True},
}


def formula(weight=1.0, score_scale=1.0, adain_query=1.0, adain_key=1.0, swap=False, norms=False) -> dict:
    return {"weights": [weight], "scale": score_scale, "adain": (adain_query, adain_key), "swap": swap}


# the first picture


@pytest.mark.parametrize(("case", "batch"), [*((case, 3) for case in FORMS), ("norms", 1), ("norms", 2)])
def test_first_picture_is_the_unpatched_models_bit_for_bit(rig, micro, calls, case, batch):
    source = rig.runs.latent(3, 4, 12, 10)[:batch]
    run = {"sigmas": (3.0, 0.7, 0.0)}
    found = rig.ordinary.sample(rig.sharing.in_batch(micro, **FORMS[case]), source, **run)
    plain = rig.ordinary.sample(micro, source, **run)
    assert torch.equal(found[0], plain[0])
    assert all(rig.runs.moved(found[row], plain[row]) > 1e-3 for row in range(1, batch))


def test_first_picture_and_each_other_one_do_not_depend_on_the_batch(rig, micro):
    """A series can be continued: the same first picture, and other ones behind it."""
    source, noise = rig.runs.latent(3, 4, 12, 10), rig.runs.drawn(3, 4, 12, 10, seed=12)
    model = rig.sharing.in_batch(micro, norms=True)
    whole = rig.ordinary.sample(model, source, noise=noise)
    for rows in ([0], [0, 1], [0, 2]):
        part = rig.ordinary.sample(model, source[rows], noise=noise[rows])
        assert rig.runs.moved(part, whole[rows]) < 1e-4


def test_batch_of_one_says_that_there_is_nothing_to_share(rig, micro, caplog):
    with caplog.at_level("WARNING"):
        for rows in (1, 2):
            rig.ordinary.one_step(rig.sharing.in_batch(micro), rig.runs.latent(rows, 4, 8, 8))
    (message,) = [text for text in caplog.messages if "[Stylization]" in text]
    assert "Stylize Shared Attention (Batch): the batch holds one picture" in message


# the others


@pytest.mark.parametrize("case", [case for case in FORMS if case != "norms"])
def test_other_pictures_give_the_published_formula(rig, micro, calls, case):
    how = FORMS[case]
    found = rig.sharing.step_layers(rig.sharing.in_batch(micro, **how), rig.runs.latent(3, 4, 9, 7))
    assert len(found) == 7
    for parts in found.values():
        assert sorted(half for half, _ in parts) == [0, 1]
        for _, own in parts:
            first, others = own.rows(slice(0, 1)), own.rows(slice(1, 3))
            expected = rig.sharing.published(others, [first], **formula(**how))
            assert rig.sharing.relative(others.out, expected) < 2e-5
            plain = rig.sharing.attention64(others.q, others.k, others.v)
            assert rig.sharing.relative(plain, expected) > 1e-2


def test_recorder_with_the_same_picture_gives_what_the_batch_gives(rig, micro, monkeypatch):
    """The first picture as a reference whose latent is at each level the one of the batch."""
    source = rig.runs.latent(3, 4, 12, 10)
    pair = rig.runs.pair()
    steps = rig.ordinary.steps_of(micro, source)
    levels = torch.tensor([0.0, *rig.ordinary.SIGMAS[-2::-1]])
    latents = torch.stack([steps[-1][0][:1], *(x[:1] for x, _ in steps[::-1])])
    trajectory = rig.reference.Trajectory(levels, latents)
    reference = rig.reference.Reference(source[:1], pair["positive"], pair["negative"], trajectory=trajectory)
    expected = rig.ordinary.sample(rig.sharing.in_batch(micro, norms=True), source)
    found = rig.ordinary.sample(
        rig.sharing.shared(micro, reference, norms=True), source[1:], noise=rig.ordinary.unit_noise(source)[1:]
    )
    plain = rig.ordinary.sample(micro, source)
    assert rig.runs.moved(found, expected[1:]) < 1e-3 * rig.runs.moved(plain[1:], expected[1:])


def test_full_sharing_is_attention_of_all_to_all(rig, micro, calls):
    found = rig.sharing.step_layers(rig.sharing.in_batch(micro, full=True, weight=3.0), rig.runs.latent(3, 4, 9, 7))
    for parts in found.values():
        for _, own in parts:
            k, v = (each.reshape(1, -1, each.shape[-1]).expand(3, -1, -1) for each in (own.k, own.v))
            assert rig.sharing.relative(own.out, rig.sharing.attention64(own.q, k, v)) < 2e-5


@pytest.mark.parametrize("full", [False, True])
def test_positive_half_alone(rig, micro, calls, full):
    source = rig.runs.latent(3, 4, 12, 10)
    positive, negative = rig.sharing.predictions(rig.sharing.in_batch(micro, full=full, both=False, norms=True), source)
    both = rig.sharing.predictions(rig.sharing.in_batch(micro, full=full, norms=True), source)
    plain = rig.sharing.predictions(micro, source)
    assert rig.runs.moved(negative, plain[1]) < 1e-5 < rig.runs.moved(both[1], plain[1])
    assert rig.runs.moved(positive, both[0]) < 1e-5 < rig.runs.moved(positive, plain[0])


def test_only_chosen_layers_share(rig, micro):
    model = rig.sharing.in_batch(micro, layers="custom", custom="middle, output.1-2")
    for layer, parts in rig.sharing.step_layers(model, rig.runs.latent()).items():
        chosen = layer[0] == "middle" or layer[:2] in (("output", 1), ("output", 2))
        for _, own in parts:
            first, other = own.rows(slice(0, 1)), own.rows(slice(1, 2))
            plain = rig.sharing.attention64(other.q, other.k, other.v)
            shared = rig.sharing.published(other, [first])
            assert rig.sharing.relative(other.out, shared if chosen else plain) < 2e-5
            assert rig.sharing.relative(shared, plain) > 1e-2


# together with references from outside


@pytest.mark.parametrize("full", [False, True])
def test_references_act_on_all_pictures_and_the_first_one_on_the_others(rig, micro, calls, full):
    reference = rig.sharing.described()
    model = rig.sharing.in_batch(rig.sharing.shared(micro, reference), full=full, weight=2.0)
    found = rig.sharing.step_layers(model, rig.runs.latent(3, 4, 9, 7))
    prompts = (reference.positive, reference.negative)
    x = rig.sharing.noised(micro, reference)
    for half in (0, 1):
        given = rig.sharing.features(micro, prompts[half], x)
        for layer, parts in found.items():
            (own,) = (part for index, part in parts if index == half)
            first, others = own.rows(slice(0, 1)), own.rows(slice(1, 3))
            if full:
                own.k, own.v = (each.reshape(1, -1, each.shape[-1]).expand(3, -1, -1) for each in (own.k, own.v))
                assert rig.sharing.relative(own.out, rig.sharing.published(own, [given[layer]])) < 2e-5
                continue
            assert rig.sharing.relative(first.out, rig.sharing.published(first, [given[layer]])) < 2e-5
            expected = rig.sharing.published(others, [given[layer], first], [1.0, 2.0])
            assert rig.sharing.relative(others.out, expected) < 2e-5


def test_references_in_a_mask_beside_the_batch(rig, micro):
    """Where the mask is white the reference alone, elsewhere the first picture."""
    mask = torch.zeros(1, 96, 80)
    mask[..., :40] = 1.0
    reference, where = rig.sharing.described(), {"layers": "custom", "custom": "input.1"}
    shared = rig.sharing.shared(micro, reference, mask=mask, **where)
    layer = ("input", 1, 0)
    for half, own in rig.sharing.step_layers(rig.sharing.in_batch(shared, **where), rig.runs.latent())[layer]:
        prompt = (reference.positive, reference.negative)[half]
        given = rig.sharing.features(micro, prompt, rig.sharing.noised(micro, reference))[layer]
        first, other = own.rows(slice(0, 1)), own.rows(slice(1, 2))
        out, masked, shared = (
            each.unflatten(1, (12, 10))
            for each in (other.out, rig.sharing.published(other, [given]), rig.sharing.published(other, [first]))
        )
        assert rig.sharing.relative(out[:, :, :5], masked[:, :, :5]) < 2e-5
        assert rig.sharing.relative(out[:, :, 5:], shared[:, :, 5:]) < 2e-5
