"""Injection by a trained injector in sampling runs: what it does to attention outputs, where, and in which layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.trained_injector import TrainedInjector

RATIO = torch.tensor([0.7])


@pytest.fixture
def injector(rig, micro):
    return shaken(rig, micro)


def shaken(rig, model, seed=5):
    """For all layers, its weights moved away from their start."""
    places = rig.layers.self_attention_layers(model.model.diffusion_model)
    made = TrainedInjector.untrained("SD15", {str(layer): place.width for layer, place in places.items()})
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draws)).requires_grad_(False)
    return made


def injecting(rig, model, injector, *references, layers="all", custom="", **settings):
    given = references or (rig.sharing.described(),)
    chosen = rig.layers.chosen_layers(model.model.diffusion_model, layers, custom)
    attached = rig.attention_settings.Holistic(given, chosen, injector=injector, **settings)
    return rig.attention_run.with_attention_run(
        rig.attachments.attach_more(model, rig.attention_settings.HOLISTIC, attached)
    )


def first_of(rig, model, source):
    seen = rig.sharing.features(model, rig.runs.pair()["positive"], source)
    first = min(seen)
    return first, seen[first].out


def of_reference(rig, model, reference, layer):
    return rig.sharing.features(model, reference.positive, rig.sharing.noised(model, reference))[layer].out


def wanted(rig, micro, injector, reference, first, out, grid=(10, 14), counted=None, **how):
    module = injector.layers[".".join(map(str, first))]
    return module(out, module.code(of_reference(rig, micro, reference, first), grid, counted), RATIO, **how)


def test_off_is_the_models_own_output_bit_for_bit(rig, micro, injector):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(micro, source)
    for settings in ({"strength": 0.0}, {"start": 1.0, "end": 0.0}):
        assert torch.equal(rig.ordinary.sample(injecting(rig, micro, injector, **settings), source), plain)
    dialled = rig.attachments.at_dial(injecting(rig, micro, injector), 0.0)
    assert torch.equal(rig.ordinary.sample(dialled, source), plain)
    assert not torch.equal(rig.ordinary.sample(injecting(rig, micro, injector), source), plain)


def test_first_layer_gets_what_the_formula_says(rig, micro, injector):
    reference, source = rig.sharing.described(), rig.runs.latent()
    first, plain = first_of(rig, micro, source)
    _, found = first_of(rig, injecting(rig, micro, injector, reference, strength=0.8), source)
    formula = wanted(rig, micro, injector, reference, first, plain, strength=0.8)
    assert rig.sharing.relative(found, formula) < 1e-5
    assert rig.sharing.relative(plain, formula) > 1e-2


def test_mask_says_where_and_whose_statistics(rig, micro, injector):
    mask = torch.zeros(1, 12, 10)
    mask[:, :6] = 1
    reference, source = rig.sharing.described(), rig.runs.latent()
    first, plain = first_of(rig, micro, source)
    share = mask.flatten()
    assert plain.shape[1] == len(share)
    _, found = first_of(rig, injecting(rig, micro, injector, reference, mask=mask), source)
    how = {"weights": share, "strength": share[None, :, None]}
    assert rig.sharing.relative(found, wanted(rig, micro, injector, reference, first, plain, **how)) < 1e-5
    assert torch.equal(found[:, share == 0], plain[:, share == 0])


def test_mask_of_a_reference_weighs_its_tokens(rig, micro, injector):
    mask = torch.zeros(10, 14)
    mask[:, :7] = 1
    reference, source = rig.sharing.described(mask=mask), rig.runs.latent()
    first, plain = first_of(rig, micro, source)
    _, found = first_of(rig, injecting(rig, micro, injector, reference), source)
    weights = F.adaptive_avg_pool2d(mask[None, None], (10, 14)).flatten()
    formula = wanted(rig, micro, injector, reference, first, plain, counted=weights)
    assert rig.sharing.relative(found, formula) < 1e-5


def test_only_layers_of_the_injector_change(rig, micro, injector):
    kept = replace(injector, layers={"middle.0.0": injector.layers["middle.0.0"]}, widths={"middle.0.0": 128})
    source = rig.runs.latent()
    plain = rig.sharing.features(micro, rig.runs.pair()["positive"], source)
    model = injecting(rig, micro, kept, layers="custom", custom="middle")
    found = rig.sharing.features(model, rig.runs.pair()["positive"], source)
    order = list(plain)
    before = order[: order.index(("middle", 0, 0))]
    assert before and all(torch.equal(found[layer].out, plain[layer].out) for layer in before)
    assert not torch.equal(found["middle", 0, 0].out, plain["middle", 0, 0].out)


@pytest.mark.parametrize("negative", [0.0, 0.5])
def test_negative_polarity_has_its_share(rig, micro, injector, monkeypatch, negative):
    asked = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.one_step(injecting(rig, micro, injector, negative=negative), rig.runs.latent())
    assert [len(x) for x, _, _ in asked if x.shape[-2:] == (10, 14)] == [1 if negative == 0 else 2]


def test_rows_do_not_depend_on_the_layout(rig, micro, injector, monkeypatch):
    model, source = injecting(rig, micro, injector), rig.runs.latent()
    allowed = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), source) + 1e-5
    together = rig.ordinary.one_step(model, source)
    rig.runs.split_calls(monkeypatch, micro)
    assert rig.runs.moved(rig.ordinary.one_step(model, source), together) <= allowed


def test_two_pictures_of_a_reference_are_two_references(rig, micro, injector):
    one, other = rig.runs.drawn(1, 4, 10, 14, seed=1), rig.runs.drawn(1, 4, 10, 14, seed=2)
    prompts = {"positive": rig.runs.conditioning(5), "negative": rig.runs.conditioning(6)}
    path = lambda x: rig.reference.Trajectory(torch.tensor([0.0, 20.0]), torch.stack([x, x]))  # noqa: E731
    both = torch.cat([one, other])
    apart = [rig.reference.Reference(x, **prompts, trajectory=path(x)) for x in (one, other)]
    together = [rig.reference.Reference(both, **prompts, trajectory=path(both))]
    source = rig.runs.latent()
    results = [rig.ordinary.sample(injecting(rig, micro, injector, *given), source) for given in (apart, together)]
    assert rig.runs.moved(*results) < 1e-4
    assert rig.runs.moved(results[0], rig.ordinary.sample(injecting(rig, micro, injector, apart[0]), source)) > 1e-3


def test_records_of_one_injector_are_not_anothers(rig, micro, injector):
    reference = rig.sharing.described(cache=rig.record_cache.RecordCache(2**24))
    other, source = shaken(rig, micro, seed=6), rig.runs.latent()
    first = rig.ordinary.sample(injecting(rig, micro, injector, reference), source)
    second = rig.ordinary.sample(injecting(rig, micro, other, reference), source)
    fresh = rig.ordinary.sample(injecting(rig, micro, other), source)
    assert torch.equal(second, fresh) and not torch.equal(first, second)
    assert torch.equal(rig.ordinary.sample(injecting(rig, micro, injector, reference), source), first)


def test_what_is_kept_of_a_reference_is_small(rig, micro, injector):
    """Vectors, whatever the size of the picture."""
    cache = rig.record_cache.RecordCache(2**24)
    reference = rig.sharing.reference(1, 4, 40, 40, positive=rig.runs.conditioning(5), cache=cache)
    rig.ordinary.one_step(injecting(rig, micro, injector, reference, negative=0.0), rig.runs.latent())
    widths = [module.o_up.out_features for module in injector.layers.values()]
    assert cache.used == 4 * sum(9 * width + 1 for width in widths)


def test_nothing_is_left_on_the_model(rig, micro, injector):
    plain, before = rig.ordinary.sample(micro, rig.runs.latent()), rig.leaks.state(micro)
    rig.ordinary.sample(injecting(rig, micro, injector), rig.runs.latent())
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.ordinary.sample(injecting(rig, micro, injector), rig.runs.latent(), callback=rig.endings.interrupting_at(1))
    assert torch.equal(rig.ordinary.sample(micro, rig.runs.latent()), plain)
    assert rig.leaks.state(micro) == before
