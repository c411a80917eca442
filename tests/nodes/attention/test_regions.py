"""StylizeRegion and StylizeClassAdaptiveAttention in process."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

REGION, NODE = "Stylize Region", "Stylize Class-Adaptive Attention"
KEY = "stylization.regions"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.regions")


@pytest.fixture
def region(rig, nodes):
    def run(mask=None, weight=1.0, **given):
        mask = torch.ones(1, 96, 80) if mask is None else mask
        return nodes.StylizeRegion.execute(mask, weight, **given).result[0]

    return run


@pytest.fixture
def adapt(nodes):
    def run(model, regions, **given):
        settings = {
            "strength": 1.0,
            "mode": "attention",
            "adaptivity": 5.0,
            "tokens": 16,
            "feather": 0.0,
            "layers": "all",
            "custom_layers": "",
            "negative_ratio": 1.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            **given,
        }
        return nodes.StylizeClassAdaptiveAttention.execute(model, regions, **settings).result[0]

    return run


def test_regions_chain(rig, region):
    first = region(reference=(rig.sharing.described(),))
    both = region(weight=2.0, previous=first)
    assert len(both) == 2 and both[0] is first[0]
    assert both[1].references == () and both[1].weight == 2.0


def test_reference_mask_is_put_on_copies(rig, region):
    reference, mask = rig.sharing.described(), torch.zeros(1, 20, 20)
    mask[:, :10] = 1
    (made,) = region(reference=(reference,), reference_mask=mask)
    assert torch.equal(made.references[0].mask, mask[0]) and reference.mask is None
    assert made.references[0].samples is reference.samples


def test_masked_copy_has_a_cache_of_its_own(rig, region):
    """Under another mask a reference gives something else."""
    from stylization.stylization_core.hosts.comfyui.references.record_cache import RecordCache

    cache = RecordCache(1000)
    (made,) = region(reference=(rig.sharing.described(cache=cache),), reference_mask=torch.ones(1, 8, 8))
    assert made.references[0].cache is not cache and made.references[0].cache.limit == 1000
    (plain,) = region(reference=(rig.sharing.described(cache=cache),))
    assert plain.references[0].cache is cache


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask": torch.full((1, 8, 8), float("nan"))}, "mask: 64 of its 64 values are NaN"),
        ({"reference_mask": torch.ones(1, 8, 8)}, "reference_mask: no reference"),
    ],
)
def test_bad_regions_are_refused(region, given, words):
    with pytest.raises(ValueError, match=f"{REGION}, {words}"):
        region(**given)


def test_empty_reference_mask_is_refused(rig, region):
    with pytest.raises(ValueError, match=f"{REGION}, reference_mask: it is empty"):
        region(reference=(rig.sharing.described(),), reference_mask=torch.zeros(1, 8, 8))


def test_strength_zero_is_the_model_itself(rig, micro, region, adapt):
    assert adapt(micro, region(reference=(rig.sharing.described(),)), strength=0.0) is micro


def test_full_adaptivity_is_strict(rig, micro, region, adapt):
    regions = region(reference=(rig.sharing.described(),))
    for given, kept in ((20.0, math.inf), (7.5, 7.5)):
        (settings,) = adapt(micro, regions, adaptivity=given).get_attachment(KEY)
        assert settings.adaptivity == kept


def test_several_nodes_act_in_turn(rig, micro, region, adapt):
    regions = region(reference=(rig.sharing.described(),))
    model = adapt(adapt(micro, regions), regions, mode="holistic")
    assert [one.holistic for one in model.get_attachment(KEY)] == [False, True]
    assert rig.ordinary.sample(model, rig.runs.latent()).isfinite().all()


def test_regions_without_any_reference_are_refused(micro, region, adapt):
    with pytest.raises(ValueError, match=f"{NODE}, regions: none has a reference"):
        adapt(micro, region())


def test_reference_of_other_channels_is_refused(rig, micro, region, adapt):
    with pytest.raises(ValueError, match=f"{NODE}, regions: it has 16 channels"):
        adapt(micro, region(reference=(rig.sharing.reference(1, 16, 8, 8),)))


def test_mask_of_another_aspect_is_refused_in_the_run(rig, micro, region, adapt):
    model = adapt(micro, region(torch.ones(1, 50, 200), reference=(rig.sharing.described(),)))
    with pytest.raises(ValueError, match=f"{NODE}, mask: it is 200x50"):
        rig.ordinary.sample(model, rig.runs.latent())


# composite


@pytest.fixture
def merge(nodes):
    return lambda *given: nodes.StylizeRegionComposite.execute(*given).result


def pictures(rows=1):
    random = torch.Generator().manual_seed(3)
    return [torch.rand(rows, 40, 64, 3, generator=random) for _ in range(2)]


@pytest.mark.parametrize("feather", [0.0, 6.0])
def test_composite_keeps_the_rest_bit_for_bit(rig, region, merge, feather):
    half, (original, styled) = torch.zeros(1, 20, 32), pictures(2)
    half[..., :16] = 1
    found, mask = merge(original, styled, region(half, reference=(rig.sharing.described(),)), feather)
    outside = mask[0] == 0
    assert outside[:, 33:].all() and torch.equal(found[:, outside], original[:, outside])
    assert torch.equal(found[:, :, : 16 - int(feather)], styled[:, :, : 16 - int(feather)])
    assert bool((mask[0, 20].diff() <= 0).all())


def test_composite_leaves_regions_without_a_reference(rig, region, merge):
    left, right, (original, styled) = torch.zeros(1, 40, 64), torch.zeros(1, 40, 64), pictures()
    left[..., :32], right[..., 32:] = 1, 1
    both = region(right, previous=region(left, reference=(rig.sharing.described(),)))
    found, mask = merge(original, styled, both, 0.0)
    assert torch.equal(mask, left)
    assert torch.equal(found, torch.cat([styled[:, :, :32], original[:, :, 32:]], 2))
    with pytest.raises(ValueError, match=r"Stylize Region Composite.*regions.*none has a reference"):
        merge(original, styled, region(right), 0.0)


def test_composite_says_what_does_not_fit(rig, region, merge):
    given, (original, styled) = region(reference=(rig.sharing.described(),)), pictures(2)
    with pytest.raises(ValueError, match="64x30 pixels, original is 64x40"):
        merge(original, styled[:, :30], given, 0.0)
    with pytest.raises(ValueError, match="original has 2 pictures, styled 3"):
        merge(original, styled[[0, 1, 0]], given, 0.0)
