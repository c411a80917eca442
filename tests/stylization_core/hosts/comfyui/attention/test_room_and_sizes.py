"""What operators on attention ask of the device and of latents: masks once, room for records, pictures of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F


def part_of(reference_mask: bool):
    """Where a reference counts: the left of it, so that tokens are left out."""
    mask = torch.zeros(80, 112)
    mask[:, :56] = 1
    return mask if reference_mask else None


def acting(rig, model, kind: str):
    """A model with an operator, its mask and its references' masks."""
    masked = rig.sharing.described(mask=part_of(True))
    mask = torch.linspace(0, 1, 96 * 80).view(1, 96, 80)
    if kind == "shared attention":
        return rig.sharing.shared(model, masked, mask=mask, norms=True)
    if kind == "shared attention without masks":
        return rig.sharing.shared(model, norms=True, weight=2.0)
    if kind == "first picture":
        return rig.sharing.in_batch(model, norms=True)
    if kind == "holistic":
        return rig.effects.injecting(model, masked, mask=mask)
    if kind == "quantiles":
        return rig.effects.injecting(model, masked, table=True)
    regions = rig.effects.two_regions()
    regions[0] = rig.attention_settings.Region(regions[0].mask, (masked,))
    return rig.effects.regional(model, *regions, holistic=kind == "holistic regions", feather=0.5)


KINDS = (
    "shared attention",
    "shared attention without masks",
    "first picture",
    "holistic",
    "quantiles",
    "regions",
    "holistic regions",
)


# masks


@pytest.mark.parametrize("kind", ["shared attention", "holistic", "regions"])
def test_masks_of_references_are_pooled_once_for_each_grid(rig, micro, monkeypatch, kind):
    """Not for each layer, polarity and level."""
    pooled, original = [], F.adaptive_avg_pool2d

    def note(mask, size):
        if tuple(mask.shape[-2:]) == (80, 112):
            pooled.append(tuple(size))
        return original(mask, size)

    monkeypatch.setattr(F, "adaptive_avg_pool2d", note)
    rig.ordinary.sample(acting(rig, micro, kind), rig.runs.latent())
    assert sorted(pooled) == sorted(set(pooled)) and len(pooled) == 2


# memory


@pytest.mark.parametrize("both", [True, False])
def test_room_for_what_references_give_is_reserved(rig, micro, monkeypatch, both):
    """ComfyUI loads as much of the weights as what is announced leaves room for."""
    import comfy.sampler_helpers

    asked: list[tuple] = []
    original = comfy.model_management.load_models_gpu

    def note(models, memory_required=0, *others, minimum_memory_required=None, **named):
        asked.append((memory_required, minimum_memory_required))
        return original(models, memory_required, *others, minimum_memory_required=minimum_memory_required, **named)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    reference = rig.sharing.described()
    model = rig.sharing.shared(micro, reference, both=both)
    for one in (micro, model):
        rig.ordinary.one_step(one, rig.runs.latent())
    layers = frozenset(rig.layers.self_attention_layers(micro.model.diffusion_model))
    announced = rig.attention_run.reference_memory(micro, [reference], layers)
    assert announced > 0
    (required, minimum), (with_records, minimum_with_records) = asked
    assert with_records - required == minimum_with_records - minimum == announced


def test_reserved_memory_covers_what_is_kept(rig, micro):
    """Keys and values of both polarities, to the byte; moments are small beside them."""
    reference, kept = rig.sharing.described(), []
    model = rig.sharing.shared(micro, reference)
    recorders = []
    original = rig.attention_run.Recorder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            rig.attention_run, "Recorder", lambda *given: (recorders.append(original(*given)), recorders[-1])[1]
        )

        def count(*_):
            records = recorders[0]._kept.values()
            tokens = [one for record in records for layer in record.layers["tokens"].values() for one in layer]
            kept.append(sum(part.numel() * part.element_size() for one in tokens for part in (one.key, one.value)))

        rig.ordinary.sample(model, rig.runs.latent(), callback=count)
    layers = frozenset(rig.layers.self_attention_layers(micro.model.diffusion_model))
    assert set(kept) == {rig.attention_run.reference_memory(micro, [reference], layers)}


# latents


@pytest.mark.parametrize("kind", ["shared attention without masks", "first picture", "holistic", "regions"])
@pytest.mark.parametrize("shape", [(0, 4, 12, 10), (1, 4, 3, 12, 10), (1, 4, 12)])
def test_latents_that_hold_no_pictures_are_refused(rig, micro, kind, shape):
    """Before anything is asked of the model, by the node's name."""
    model = acting(rig, micro, kind)
    with pytest.raises(ValueError, match=r"^Stylize .*, latent_image: the run's latent is \(.*\), not pictures"):
        rig.ordinary.sample(model, torch.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2)])
def test_smallest_latents_give_finite_pictures(rig, micro, kind, size):
    source = rig.runs.latent(2, 4, *size)
    model = {
        "shared attention": lambda: rig.sharing.shared(
            micro, rig.sharing.described(), norms=True, mask=torch.ones(size)
        ),
        "holistic": lambda: rig.effects.injecting(micro, mask=torch.ones(size)),
        "regions": lambda: rig.effects.regional(micro, *rig.effects.two_regions(*size)),
        "holistic regions": lambda: rig.effects.regional(micro, *rig.effects.two_regions(*size), holistic=True),
    }.get(kind, lambda: acting(rig, micro, kind))()
    assert rig.ordinary.sample(model, source).isfinite().all()
