"""StylizeProtectRegion under the stock KSampler and before Stylize SMS, and StylizeProtectComposite."""

from __future__ import annotations

import importlib

import pytest
import torch

REGION, COMPOSITE = "Stylize Protect Region", "Stylize Protect Composite"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.guidance.protection")


@pytest.fixture
def protect(nodes):
    """The MODEL of StylizeProtectRegion."""

    def put(model, mask=None, **given):
        settings = {"strength": 1.0, "band": 0.0, "start_percent": 0.0, "end_percent": 1.0, **given}
        return nodes.StylizeProtectRegion.execute(model, left() if mask is None else mask, **settings)[0]

    return put


@pytest.fixture
def merge(nodes):
    """The outputs of StylizeProtectComposite."""
    return lambda *given: nodes.StylizeProtectComposite.execute(*given).result


def left(height: int = 96, width: int = 80) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask


def moved(one: torch.Tensor, two: torch.Tensor) -> float:
    return (one - two).abs().max().item()


# region


def test_region_keeps_its_inputs(rig, protect, micro):
    content, mask = rig.runs.drawn(1, 4, 12, 10), left()
    given = {"strength": 0.7, "band": 0.2, "start_percent": 0.1, "end_percent": 0.8, "content": {"samples": content}}
    settings = protect(micro, mask, **given).get_attachment(rig.sms_settings.PROTECTION)
    assert (settings.strength, settings.band, settings.start, settings.end) == (0.7, 0.2, 0.1, 0.8)
    assert settings.mask is mask and settings.content is content
    assert protect(micro).get_attachment(rig.sms_settings.PROTECTION).content is None
    assert protect(micro, strength=0.0) is micro


def test_region_stays_in_the_run_and_the_model_stays_as_it_is(rig, protect, ksampler, micro):
    samples, before = rig.runs.latent(), rig.leaks.state(micro)
    plain = ksampler(micro, samples)
    found = ksampler(protect(micro), samples)
    assert moved(found[..., :5], samples[..., :5]) < 1e-4 < 0.05 < moved(plain[..., :5], samples[..., :5])
    assert moved(found[..., 5:], samples[..., 5:]) > 0.05
    assert rig.leaks.state(micro) == before and torch.equal(ksampler(micro, samples), plain)


def test_band_frees_the_tone(rig, protect, ksampler, micro):
    samples = rig.runs.latent()
    plain, held = (ksampler(model, samples) - samples for model in (micro, protect(micro, band=0.05)))
    tone = held[..., :5].mean((2, 3), keepdim=True)
    assert tone.abs().max() > 0.02
    rough = plain[..., :5] - plain[..., :5].mean((2, 3), keepdim=True)
    assert (held[..., :5] - tone).norm() < 0.5 * rough.norm()


@pytest.mark.parametrize("given", [{"band": 0.3}, {"strength": 0.3}, {"start_percent": 0.8}, {"end_percent": 0.6}])
def test_inputs_change_the_run(rig, protect, ksampler, micro, given):
    samples = rig.runs.latent()
    assert moved(ksampler(protect(micro), samples), ksampler(protect(micro, **given), samples)) > 1e-3


def test_region_before_stylize_sms(rig, pack_nodes, protect, styled):
    sms = {node.GET_SCHEMA().node_id: node for node in pack_nodes.NODES}["StylizeSMS"]
    given, samples = rig.runs.pair(), rig.runs.latent()
    numbers = {"seed": 3, "steps": 4, "cfg": 4.5, "strength": 1.0, "step_size": 0.1, "spectrum": 1.0}
    off = {"relevance": "off", "relevance_floor": 0.1}
    found = sms.execute(protect(styled), **given, latent_image={"samples": samples}, **numbers, **off)[0]["samples"]
    assert moved(found[..., :5], samples[..., :5]) < 1e-5 < 0.02 < moved(found[..., 5:], samples[..., 5:])


def test_mask_of_nothing_and_of_nan_are_refused(refusal, protect, micro):
    message = refusal(REGION, lambda: protect(micro, torch.zeros(1, 96, 80)))
    assert message.startswith(f"{REGION}, mask: it is empty, nothing is marked. Paint")
    message = refusal(REGION, lambda: protect(micro, left() * torch.nan))
    assert message.startswith(f"{REGION}, mask: 7680 of its 7680 values are NaN")


def test_a_second_one_and_other_families_are_refused(refusal, protect, micro, wiring_model):
    message = refusal(REGION, lambda: protect(protect(micro)))
    assert message.startswith(f"{REGION}, model: it has gone through a '{REGION}' already. Keep one")
    message = refusal(REGION, lambda: protect(wiring_model("wan")))
    assert message.startswith(f"{REGION}, model: the model family WAN21")


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (torch.ones(1, 16, 8, 8), "it has 16 channels, latents of model have 4"),
        (torch.full((1, 4, 8, 8), torch.nan), "256 of its 256 values are NaN"),
        (torch.zeros(1, 4, 8, 8), "it is empty"),
        (torch.ones(1, 4, 2, 8, 8), "it holds (1, 4, 2, 8, 8)"),
    ],
)
def test_content_that_is_none_is_refused(refusal, protect, micro, samples, said):
    message = refusal(REGION, lambda: protect(micro, content={"samples": samples}))
    assert message.startswith(f"{REGION}, content: {said}")


def test_mask_of_another_aspect_is_refused_when_the_run_begins(rig, refusal, protect, ksampler, micro):
    message = refusal(REGION, lambda: ksampler(protect(micro, torch.ones(1, 64, 64)), rig.runs.latent()))
    assert message.startswith(f"{REGION}, mask: it is 64x64 pixels, the picture about 80x96")


# composite


def pictures(rows: int = 1) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return [torch.rand(rows, 40, 64, 3, generator=random) for _ in range(2)]


@pytest.mark.parametrize("feather", [0.0, 6.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_inside_is_the_original_to_the_last_bit(merge, feather, rows):
    original, styled = pictures(rows)
    found, seam, text = merge(original, styled, left(40, 64), feather)
    assert torch.equal(found[:, :, :32], original[:, :, :32])
    assert torch.equal(found[:, :, 32 + int(feather) :], styled[:, :, 32 + int(feather) :])
    assert torch.equal(found[:, :, 32], styled[:, :, 32]) == (feather == 0)
    assert 0.5 < seam < 2 and len(text.splitlines()) == rows + 1


def test_seam_is_that_of_the_worst_picture_and_stated_for_each(merge):
    """Grey 0.2 with steps of 0.1 and 0.4, in units of a 255th."""
    original = torch.full((1, 40, 64, 3), 0.2)
    styled = torch.stack([original[0] + 0.1, original[0] + 0.4])
    found, seam, text = merge(original, styled, left(40, 64), 0.0)
    assert seam == pytest.approx(0.4 * 255, rel=1e-3)
    assert text.splitlines()[:2] == [
        "picture 1: seam 25.50, 50.0 % exactly the original",
        "picture 2: seam 102.00, 50.0 % exactly the original",
    ]
    softer = merge(original, styled, left(40, 64), 16.0)[1]
    assert softer < 0.1 * seam
    assert merge(original, original, left(40, 64), 0.0)[1] == 1.0


def test_mask_of_another_size_follows_the_picture_and_alpha_is_left(merge):
    original, styled = (torch.cat([one, torch.ones_like(one[..., :1])], -1) for one in pictures())
    found, *_ = merge(original, styled, left(20, 32)[0], 0.0)
    assert found.shape == (1, 40, 64, 3)
    assert torch.equal(found[:, :, :31], original[:, :, :31, :3])
    assert torch.equal(found[:, :, 33:], styled[:, :, 33:, :3])


def test_original_and_mask_are_cut_as_vae_encode_does(merge):
    original, styled = pictures()
    larger = torch.nn.functional.pad(original, (0, 0, 1, 2, 3, 4))
    mask = torch.nn.functional.pad(left(40, 64), (1, 2, 3, 4))
    assert torch.equal(merge(larger, styled, mask, 0.0)[0], merge(original, styled, left(40, 64), 0.0)[0])


def test_a_mask_for_each_picture_of_which_one_may_be_empty(merge):
    original, styled = pictures(2)
    masks = torch.cat([left(40, 64), torch.zeros(1, 40, 64)])
    found, _, text = merge(original, styled, masks, 0.0)
    assert torch.equal(found[1], styled[1]) and torch.equal(found[0, :, :32], original[0, :, :32])
    assert text.splitlines()[1] == "picture 2: seam 1.00, 0.0 % exactly the original"


def test_composite_says_what_does_not_fit(refusal, merge):
    original, styled = pictures(2)
    for given, said in (
        ((original, styled[:, :30], left(40, 64)), "styled: it is 64x30 pixels, original is 64x40"),
        ((original, styled[[0, 1, 0]], left(40, 64)), "styled: original has 2 pictures, styled 3, the masks 1"),
        ((original, styled, torch.zeros(1, 40, 64)), "mask: it is empty"),
        ((original, styled, torch.full((1, 40, 64), torch.nan)), "mask: 2560 of its 2560 values are NaN"),
    ):
        message = refusal(COMPOSITE, lambda given=given: merge(*given, 0.0))
        assert message.startswith(f"{COMPOSITE}, {said}")
