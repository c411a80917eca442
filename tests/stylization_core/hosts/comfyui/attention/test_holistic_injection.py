"""Holistic injection in sampling runs: what it does to attention outputs, where, and what it leaves alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

# The oracle: the formulas of the source in plain numpy, channel by channel, without the product's functions.


def moments(values, weights):
    """Mean and deviation of a population (N,)."""
    mean = np.average(values, weights=weights)
    return mean, np.sqrt(np.average((values - mean) ** 2, weights=weights))


def reshaped(z, own, style):
    """Standardised values through the rising line from quantiles to quantiles; no slope above 4, beyond them 1."""
    steps = np.minimum(np.diff(style), 4.0 * np.diff(own))
    line = np.concatenate([[0.0], np.cumsum(steps)])
    line += style[len(style) // 2] - line[len(line) // 2]
    return np.interp(z, own, line) + np.maximum(z - own[-1], 0) + np.minimum(z - own[0], 0)


def styled_like(x, style, tone=0.0, table=False, weights=None, style_weights=None):
    """Features with mean and shape of a style's: the mean moves whole, the shape by ``1 - tone``.

    Args:
        x: (B, N, C). style: (1, M, C). weights, style_weights: (N,), (M,), how much each token counts.
    """
    out, levels = torch.empty_like(x), (np.arange(33) + 0.5) / 33
    for row, channel in itertools.product(range(x.shape[0]), range(x.shape[-1])):
        own, other = x[row, :, channel].double().numpy(), style[0, :, channel].double().numpy()
        (mean, std), (style_mean, style_std) = moments(own, weights), moments(other, style_weights)
        z = shaped = (own - mean) / std
        if table:
            known = [np.quantile(values, levels, method="hazen") for values in (own, other)]
            shaped = reshaped(z, (known[0] - mean) / std, (known[1] - style_mean) / style_std)
        made = own + (style_mean - mean) + (1 - tone) * (shaped * style_std - z * std)
        out[row, :, channel] = torch.from_numpy(made)
    return out


# off


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_off_is_the_models_own_output_bit_for_bit(rig, micro, sampler):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(micro, source, sampler=sampler)
    for settings in ({"strength": 0.0}, {"start": 1.0, "end": 0.0}):
        assert torch.equal(
            rig.ordinary.sample(rig.effects.injecting(micro, **settings), source, sampler=sampler), plain
        )
    dialled = rig.attachments.at_dial(rig.effects.injecting(micro), 0.0)
    assert torch.equal(rig.ordinary.sample(dialled, source, sampler=sampler), plain)
    assert not torch.equal(rig.ordinary.sample(rig.effects.injecting(micro), source, sampler=sampler), plain)


# what


@pytest.mark.parametrize("table", [False, True])
def test_first_layer_gets_what_the_formula_says(rig, micro, table):
    """The first layer's own output, in each half, with the statistics of the reference under that half."""
    reference, source = rig.sharing.described(), rig.runs.latent()
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], source)
    first = min(plain)
    marked = rig.sharing.features(micro, reference.positive, rig.sharing.noised(micro, reference))
    wanted = styled_like(plain[first].out, marked[first].out, tone=0.3, table=table)
    model = rig.effects.injecting(micro, reference, table=table, tone=0.3)
    found = rig.sharing.features(model, rig.runs.pair()["positive"], source)
    assert rig.sharing.relative(found[first].out, wanted) < 1e-5


def test_dial_multiplies_the_strength(rig, micro):
    source, reference = rig.runs.latent(), rig.sharing.described()
    half = rig.ordinary.sample(rig.effects.injecting(micro, reference, strength=0.5), source)
    assert torch.equal(
        rig.ordinary.sample(rig.attachments.at_dial(rig.effects.injecting(micro, reference), 0.5), source), half
    )


def test_several_references_are_their_mixture(rig, micro):
    """Two pictures in one batch, and the same two as references of their own."""
    one, other = rig.runs.drawn(1, 4, 10, 14, seed=1), rig.runs.drawn(1, 4, 10, 14, seed=2)
    prompts = {"positive": rig.runs.conditioning(5), "negative": rig.runs.conditioning(6)}
    trajectories = [rig.reference.Trajectory(torch.tensor([0.0, 20.0]), torch.stack([x, x])) for x in (one, other)]
    both = rig.reference.Trajectory(torch.tensor([0.0, 20.0]), torch.stack([torch.cat([one, other])] * 2))
    pairs = zip((one, other), trajectories, strict=True)
    apart = [rig.reference.Reference(x, **prompts, trajectory=path) for x, path in pairs]
    together = rig.reference.Reference(torch.cat([one, other]), **prompts, trajectory=both)
    results = [
        rig.ordinary.sample(rig.effects.injecting(micro, *given), rig.runs.latent()) for given in (apart, [together])
    ]
    assert rig.runs.moved(*results) < 1e-4
    alone = rig.ordinary.sample(rig.effects.injecting(micro, apart[0]), rig.runs.latent())
    assert rig.runs.moved(results[0], alone) > 1e-2


def test_mask_of_a_reference_weighs_its_tokens(rig, micro):
    mask = torch.zeros(10, 14)
    mask[:, :7] = 1
    reference = rig.sharing.described(mask=mask)
    x = rig.sharing.noised(micro, reference)
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], rig.runs.latent())
    first = min(plain)
    out = rig.sharing.features(micro, reference.positive, x)[first].out
    grid = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], grid_of(out, 10, 14))
    wanted = styled_like(plain[first].out, out, style_weights=grid.flatten().numpy())
    found = rig.sharing.features(
        rig.effects.injecting(micro, reference, tone=0.0), rig.runs.pair()["positive"], rig.runs.latent()
    )
    assert rig.sharing.relative(found[first].out, wanted) < 1e-5


def grid_of(out, height, width):
    while height * width > out.shape[1]:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


# where


def test_outside_its_mask_the_first_layer_stays_bit_for_bit(rig, micro):
    mask = torch.zeros(1, 12, 10)
    mask[:, :6] = 1
    source = rig.runs.latent()
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], source)
    first = min(plain)
    found = rig.sharing.features(rig.effects.injecting(micro, mask=mask), rig.runs.pair()["positive"], source)[
        first
    ].out
    height, width = grid_of(plain[first].out, 12, 10)
    inside = torch.nn.functional.adaptive_avg_pool2d(mask[None], (height, width)).flatten() > 0
    assert torch.equal(found[:, ~inside], plain[first].out[:, ~inside])
    assert (found[:, inside] != plain[first].out[:, inside]).any()


def test_masked_statistics_are_those_of_the_masked_part(rig, micro):
    mask = torch.zeros(1, 12, 10)
    mask[:, :6] = 1
    source, reference = rig.runs.latent(), rig.sharing.described()
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], source)
    first = min(plain)
    style = rig.sharing.features(micro, reference.positive, rig.sharing.noised(micro, reference))[first].out
    height, width = grid_of(plain[first].out, 12, 10)
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], (height, width)).flatten()
    out = plain[first].out
    wanted = out + share[None, :, None] * (styled_like(out, style, weights=share.numpy()) - out)
    found = rig.sharing.features(
        rig.effects.injecting(micro, reference, mask=mask, tone=0.0), rig.runs.pair()["positive"], source
    )
    assert rig.sharing.relative(found[first].out, wanted) < 1e-5


def test_only_the_chosen_layers_change(rig, micro):
    source = rig.runs.latent()
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], source)
    names = sorted(plain)
    last = names[-1]
    model = rig.effects.injecting(micro, layers="custom", custom=f"{last[0]}.{last[1]}.{last[2]}")
    found = rig.sharing.features(model, rig.runs.pair()["positive"], source)
    order = list(plain)
    before = order[: order.index(last)]
    assert before and all(torch.equal(found[layer].out, plain[layer].out) for layer in before)
    assert not torch.equal(found[last].out, plain[last].out)


@pytest.mark.parametrize("negative", [0.0, 0.5])
def test_negative_polarity_has_its_share(rig, micro, monkeypatch, negative):
    """At 0 the reference is not even asked under it."""
    asked = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.one_step(rig.effects.injecting(micro, negative=negative), rig.runs.latent())
    passes = [x for x, _, _ in asked if x.shape[-2:] == (10, 14)]
    assert [len(x) for x in passes] == [1 if negative == 0 else 2]


# layout


def test_rows_do_not_depend_on_the_layout(rig, micro, monkeypatch):
    """One batch, one call per chunk, and each picture by itself."""
    model, source = rig.effects.injecting(micro, table=True), rig.runs.latent()
    allowed = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), source) + 1e-5
    together = rig.ordinary.one_step(model, source)
    rig.runs.split_calls(monkeypatch, micro)
    assert rig.runs.moved(rig.ordinary.one_step(model, source), together) <= allowed


def test_with_shared_attention_it_acts_on_what_was_shared(rig, micro):
    reference, source = rig.sharing.described(), rig.runs.latent()
    shared = rig.sharing.shared(micro, reference)
    both = rig.effects.injecting(shared, reference, tone=0.0)
    positive = rig.runs.pair()["positive"]
    after = rig.sharing.features(shared, positive, source)
    first = min(after)
    style = rig.sharing.features(micro, reference.positive, rig.sharing.noised(micro, reference))[first].out
    found = rig.sharing.features(both, positive, source)[first].out
    assert rig.sharing.relative(found, styled_like(after[first].out, style)) < 1e-5


def test_reference_of_two_operators_runs_once(rig, micro, monkeypatch):
    reference = rig.sharing.described()
    asked = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.one_step(rig.effects.injecting(rig.sharing.shared(micro, reference), reference), rig.runs.latent())
    assert [len(x) for x, _, _ in asked if x.shape[-2:] == (10, 14)] == [2]


def test_nothing_is_left_on_the_model(rig, micro):
    before = rig.leaks.state(micro)
    plain = rig.ordinary.sample(micro, rig.runs.latent())
    rig.ordinary.sample(rig.effects.injecting(micro), rig.runs.latent())
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.ordinary.sample(rig.effects.injecting(micro), rig.runs.latent(), callback=rig.endings.interrupting_at(1))
    assert torch.equal(rig.ordinary.sample(micro, rig.runs.latent()), plain)
    assert rig.leaks.state(micro) == before
