"""StylizeSMSGuidance, StylizeSpectrumRegularizer and StylizeSemanticRefiner in process, under the stock KSampler."""

from __future__ import annotations

import importlib

import pytest
import torch

GUIDANCE, REGULARIZER, REFINER = "Stylize SMS Guidance", "Stylize Spectrum Regularizer", "Stylize Semantic Refiner"
WINDOW = {"start_percent": 0.0, "end_percent": 1.0}
NEVER = {"start_percent": 1.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def sampling(pack_nodes):
    return importlib.import_module("stylization.nodes.guidance")


@pytest.fixture
def guided(sampling):
    """The MODEL of StylizeSMSGuidance."""

    def put(model, **given):
        return sampling.StylizeSMSGuidance.execute(model, **{"strength": 1.0, "mode": "edit", **WINDOW, **given})[0]

    return put


@pytest.fixture
def held(sampling):
    """The MODEL of StylizeSpectrumRegularizer."""

    def put(model, **given):
        settings = {"weight": 1.0, "hold": 0.5, "band": 1.0, "form": "gradient", "color_hold": 1.0, **WINDOW}
        return sampling.StylizeSpectrumRegularizer.execute(model, **{**settings, **given})[0]

    return put


@pytest.fixture
def placed(sampling):
    """The MODEL of StylizeSemanticRefiner."""

    def put(model, **given):
        return sampling.StylizeSemanticRefiner.execute(
            model, **{"floor": 0.1, "map": "precomputed", **WINDOW, **given}
        )[0]

    return put


@pytest.fixture
def put(guided, held, placed):
    """``put(name, model)`` with inputs under which the node acts."""
    nodes = {GUIDANCE: guided, REGULARIZER: held, REFINER: lambda model, **given: placed(model, mask=right(), **given)}
    return lambda name, model, **given: nodes[name](model, **given)


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


def right() -> torch.Tensor:
    """A mask of the right half."""
    mask = torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    return mask


def prompts(rig) -> dict:
    return {"edit": rig.runs.conditioning(9), "empty": rig.runs.pair()["negative"]}


def moved(one: torch.Tensor, two: torch.Tensor) -> float:
    return (one - two).abs().max().item()


# what the nodes leave on the MODEL


def test_guidance_keeps_its_inputs(rig, guided, micro, styled, path):
    found = guided(styled, strength=0.7, mode="add", start_percent=0.2, end_percent=0.9)
    settings = found.get_attachment(rig.guidance_settings.GUIDANCE)
    assert (settings.strength, settings.edit, settings.start, settings.end) == (0.7, False, 0.2, 0.9)
    assert settings.style.branch is rig.style_branch.attached(styled)
    assert guided(styled, mode="edit").get_attachment(rig.guidance_settings.GUIDANCE).edit
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    assert guided(micro, style_model=second).get_attachment(rig.guidance_settings.GUIDANCE).style.patcher is second


def test_regularizer_keeps_its_inputs(rig, held, micro):
    content = picture(rig, 1, 4, 12, 10)
    given = {"weight": 2.0, "hold": 0.3, "band": 0.4, "form": "proximal", "color_hold": 0.6, "start_percent": 0.1}
    settings = held(micro, **given, end_percent=0.8, content={"samples": content}).get_attachment(
        rig.sms_settings.SPECTRUM
    )
    assert (settings.weight, settings.hold, settings.band, settings.color) == (2.0, 0.3, 0.4, 0.6)
    assert (settings.proximal, settings.start, settings.end) == (True, 0.1, 0.8)
    assert settings.content is content
    assert not held(micro).get_attachment(rig.sms_settings.SPECTRUM).proximal


def test_refiner_keeps_its_inputs(rig, placed, micro):
    mask, content, given = right(), picture(rig, 1, 4, 12, 10), prompts(rig)
    found = placed(micro, floor=0.3, map="live", start_percent=0.1, end_percent=0.8, mask=mask, **given)
    settings = found.get_attachment(rig.sms_settings.REFINEMENT)
    assert (settings.floor, settings.live, settings.start, settings.end) == (0.3, True, 0.1, 0.8)
    assert settings.mask is mask and settings.edit is given["edit"] and settings.empty is given["empty"]
    other = placed(micro, content={"samples": content}, **given).get_attachment(rig.sms_settings.REFINEMENT)
    assert not other.live and other.mask is None and other.content is content


@pytest.mark.parametrize("name", [GUIDANCE, REGULARIZER, REFINER])
def test_the_connected_model_stays_as_it_is(rig, put, ksampler, styled, name):
    before, plain = rig.leaks.state(styled), ksampler(styled, picture(rig))
    found = put(name, styled)
    assert found is not styled and found.model is styled.model
    assert moved(ksampler(found, picture(rig)), plain) > 1e-3
    assert rig.leaks.state(styled) == before
    assert torch.equal(ksampler(styled, picture(rig)), plain)


# in the steps of KSampler


@pytest.mark.parametrize("off", ["strength", "hold", "floor", "windows", "window of edit", "dial"])
def test_off_is_the_plain_run_bit_for_bit(rig, guided, held, placed, ksampler, styled, off):
    samples = picture(rig)
    model = {
        "strength": lambda: guided(styled, strength=0.0),
        "hold": lambda: held(styled, hold=0.0),
        "floor": lambda: placed(styled, floor=1.0, mask=right()),
        "windows": lambda: held(placed(guided(styled, mode="add", **NEVER), mask=right(), **NEVER), **NEVER),
        "window of edit": lambda: guided(styled, **NEVER),
        "dial": lambda: held(placed(guided(styled), mask=right())),
    }[off]()
    if off == "dial":
        model.model_options["transformer_options"][rig.attachments.DIAL] = 0
    assert torch.equal(ksampler(model, samples), ksampler(styled, samples))


def test_strength_zero_is_the_model_itself(guided, styled):
    assert guided(styled, strength=0.0) is styled


def test_edit_starts_at_the_picture(rig, guided, ksampler, styled):
    """Next to no score leaves the path where it starts, whatever the CFG."""
    samples = picture(rig)
    assert moved(ksampler(guided(styled, strength=1e-6), samples), samples) < 1e-4
    assert moved(ksampler(guided(styled), samples), samples) > 0.01


def test_edit_does_not_depend_on_cfg_and_the_negative_prompt(rig, guided, ksampler, styled):
    model, samples = guided(styled), picture(rig)
    first = ksampler(model, samples, cfg=4.0)
    assert torch.equal(first, ksampler(model, samples, cfg=9.0, negative=rig.runs.conditioning(7)))
    assert moved(first, ksampler(model, samples, positive=rig.runs.conditioning(7))) > 1e-3


def test_add_is_the_sum_of_cfg_and_score(rig, guided, ksampler, styled):
    """Twice the strength moves the first estimate twice as far from the plain one."""
    samples = picture(rig)
    plain = ksampler(styled, samples, steps=1)
    one, two = (ksampler(guided(styled, mode="add", strength=s), samples, steps=1) - plain for s in (1.0, 2.0))
    assert moved(two, 2 * one) < 1e-3 * two.abs().max() and one.abs().max() > 0.01


@pytest.mark.parametrize(
    ("mode", "cfg", "rows"), [("edit", 4.0, 2), ("edit", 1.0, 2), ("add", 4.0, 3), ("add", 1.0, 2)]
)
def test_rows_of_each_step(rig, guided, ksampler, styled, mode, cfg, rows):
    """As the help page states them, for each picture."""
    recorded, calls = rig.runs.recording(guided(styled, mode=mode))
    ksampler(recorded, picture(rig), cfg=cfg, steps=3)
    assert [found for _, _, found in calls] == [2 * rows] * 3


@pytest.mark.parametrize(("mode", "cfg", "rows"), [("edit", 4.0, 1), ("add", 4.0, 2), ("add", 1.0, 1)])
def test_rows_of_the_base_beside_a_second_checkpoint(rig, guided, ksampler, micro, path, mode, cfg, rows):
    base, calls = rig.runs.recording(micro)
    second, others = rig.runs.recording(rig.loras.weight_patched(rig.micro.unet(), path, 0.8))
    ksampler(guided(base, mode=mode, style_model=second), picture(rig), cfg=cfg, steps=3)
    assert [found for _, _, found in calls] == [2 * rows] * 3
    assert [found for _, _, found in others] == [2] * 3


@pytest.mark.parametrize("mode", ["edit", "add"])
def test_style_model_is_the_style_lora(rig, guided, ksampler, micro, styled, path, mode):
    samples, style = picture(rig), rig.loras.weight_patched(micro, path, 0.8)
    ours = ksampler(guided(styled, mode=mode), samples)
    assert torch.equal(ours, ksampler(guided(micro, mode=mode, style_model=style), samples))
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    checkpoint = ksampler(guided(micro, mode=mode, style_model=second), samples)
    assert moved(ours, checkpoint) < 1e-3 * moved(ours, samples)


def test_hold_keeps_the_mean_colour_of_the_picture_or_of_content(rig, held, ksampler, micro):
    samples, content = picture(rig), picture(rig, 1, 4, 12, 10) + 0.7
    plain = ksampler(micro, samples).mean((2, 3))
    kept = ksampler(held(micro, hold=1.0), samples).mean((2, 3))
    assert moved(kept, samples.mean((2, 3))) < 1e-4 < 1e-2 < moved(plain, samples.mean((2, 3)))
    other = ksampler(held(micro, hold=1.0, content={"samples": content}), samples).mean((2, 3))
    assert moved(other, content.mean((2, 3)).expand(2, 4)) < 1e-4
    free = ksampler(held(micro, hold=1.0, color_hold=0.0), samples).mean((2, 3))
    assert moved(free, samples.mean((2, 3))) > 1e-2


@pytest.mark.parametrize("given", [{"form": "proximal"}, {"band": 0.3}, {"hold": 0.2}, {"start_percent": 0.8}])
def test_inputs_of_the_regularizer_change_its_run(rig, held, ksampler, micro, given):
    assert moved(ksampler(held(micro), picture(rig)), ksampler(held(micro, **given), picture(rig))) > 1e-3


def test_content_gives_a_run_from_noise_its_layout(rig, held, ksampler, micro):
    content, empty = picture(rig), torch.zeros(2, 4, 12, 10)
    model = held(micro, hold=1.0, content={"samples": content})
    result = ksampler(model, empty, denoise=1.0)
    assert moved(result.mean((2, 3)), content.mean((2, 3))) < 1e-4


def test_refiner_leaves_what_is_black_alone(rig, placed, ksampler, micro):
    samples = picture(rig)
    result = ksampler(placed(micro, floor=0.0, mask=right()), samples)
    assert moved(result[..., :5], samples[..., :5]) < 1e-4
    assert moved(result[..., 5:], samples[..., 5:]) > 0.05
    other = picture(rig) * -0.5
    result = ksampler(placed(micro, floor=0.0, mask=right(), content={"samples": other}), samples)
    assert moved(result[..., :5], other[..., :5]) < 1e-4


@pytest.mark.parametrize("kind", ["precomputed", "live"])
def test_refiner_makes_a_map_from_its_prompts(rig, placed, ksampler, micro, kind):
    samples, given = picture(rig), prompts(rig)
    recorded, calls = rig.runs.recording(placed(micro, map=kind, **given))
    found = ksampler(recorded, samples, steps=3)
    # by two pictures: a step has four rows; the map four calls before the run, or one beside each step
    assert len(calls) == {"precomputed": 4 + 3, "live": 2 * 3}[kind] and {rows for _, _, rows in calls} == {4}
    other = placed(micro, map=kind, **{**given, "edit": rig.runs.conditioning(8)})
    assert moved(found, ksampler(other, samples, steps=3)) > 1e-3
    assert moved(found, ksampler(micro, samples, steps=3)) > 1e-2


def test_all_three_together_any_size(rig, guided, held, placed, ksampler, styled):
    for shape in ((1, 4, 13, 9), (3, 4, 8, 16)):
        samples = picture(rig, *shape)
        result = ksampler(held(placed(guided(styled), **prompts(rig))), samples, steps=2)
        assert result.shape == shape and torch.isfinite(result).all() and moved(result, samples) > 1e-3


# bad input


def broken(rig) -> dict:
    samples = picture(rig)
    samples[0, 0, 0, 0] = float("nan")
    return {"samples": samples}


@pytest.mark.parametrize("name", [GUIDANCE, REGULARIZER, REFINER])
def test_a_second_one_on_the_way_is_refused(refusal, put, styled, name):
    message = refusal(name, lambda: put(name, put(name, styled)))
    assert message.startswith(f"{name}, model: it has gone through a '{name}' already. Keep one")


@pytest.mark.parametrize("name", [GUIDANCE, REGULARIZER, REFINER])
def test_refused_family_is_named(refusal, put, wiring_model, name):
    message = refusal(name, lambda: put(name, wiring_model("wan")))
    assert message.startswith(f"{name}, model: the model family WAN21")


def test_missing_style_and_equal_models_name_the_nodes_to_use(rig, refusal, guided, micro):
    for given in ({}, {"style_model": micro.clone()}, {"style_model": rig.micro.unet()}):
        message = refusal(GUIDANCE, lambda given=given: guided(micro, **given))
        assert "'Stylize Style LoRA'" in message and "'Load LoRA'" in message


@pytest.mark.parametrize("missing", [("edit", "empty"), ("edit",), ("empty",)])
def test_refiner_needs_a_mask_or_both_prompts(rig, refusal, placed, micro, missing):
    given = {key: value for key, value in prompts(rig).items() if key not in missing}
    message = refusal(REFINER, lambda: placed(micro, **given))
    assert message.startswith(f"{REFINER}, mask: it is not connected, and neither are both edit and empty. Connect")


BAD_CONTENT = {
    "channels": (lambda rig: {"samples": picture(rig, 1, 16, 8, 8)}, "it has 16 channels, latents of model have 4"),
    "NaN": (broken, "1 of its 960 values are NaN"),
    "empty": (lambda rig: {"samples": torch.zeros(1, 4, 8, 8)}, "it is empty"),
    "video": (lambda rig: {"samples": torch.ones(1, 4, 2, 8, 8)}, "it holds (1, 4, 2, 8, 8)"),
}


@pytest.mark.parametrize("name", [REGULARIZER, REFINER])
@pytest.mark.parametrize("case", BAD_CONTENT)
def test_content_that_is_none_is_refused(rig, refusal, put, micro, name, case):
    content, expected = BAD_CONTENT[case]
    message = refusal(name, lambda: put(name, micro, content=content(rig)))
    assert message.startswith(f"{name}, content: {expected}")


@pytest.mark.parametrize("name", [REGULARIZER, REFINER])
def test_content_of_another_size_is_refused_when_the_run_begins(rig, refusal, put, ksampler, micro, name):
    model = put(name, micro, content={"samples": picture(rig, 1, 4, 8, 8)})
    before = rig.leaks.state(model)
    message = refusal(name, lambda: ksampler(model, picture(rig)))
    assert message.startswith(f"{name}, content: its latent is (1, 4, 8, 8), the run's is (2, 4, 12, 10)")
    assert rig.leaks.state(model) == before


@pytest.mark.parametrize("name", [GUIDANCE, REGULARIZER, REFINER])
def test_a_run_from_an_empty_latent_has_no_content(refusal, put, ksampler, styled, name):
    message = refusal(name, lambda: ksampler(put(name, styled), torch.zeros(2, 4, 12, 10), denoise=1.0))
    # guidance has no input for a content of its own
    subject = "latent_image" if name == GUIDANCE else "content"
    assert message.startswith(f"{name}, {subject}: ") and "empty latent" in message and "VAE Encode" in message
    assert ("to content" in message) == (name != GUIDANCE)


def test_add_needs_no_picture(rig, guided, ksampler, styled):
    empty = torch.zeros(2, 4, 12, 10)
    assert torch.isfinite(ksampler(guided(styled, mode="add"), empty, denoise=1.0)).all()


def test_mask_of_another_aspect_is_refused_when_the_run_begins(rig, refusal, placed, ksampler, micro):
    message = refusal(REFINER, lambda: ksampler(placed(micro, mask=torch.ones(1, 64, 64)), picture(rig)))
    assert message.startswith(f"{REFINER}, mask: it is 64x64 pixels, the picture about 80x96")
