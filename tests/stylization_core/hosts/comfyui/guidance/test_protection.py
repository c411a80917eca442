"""Protected regions in runs of ComfyUI's own samplers and in SMS."""

from __future__ import annotations

import pytest
import scipy.fft
import torch

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun")
NEVER = {"start": 1.0, "end": 0.0}


def left() -> torch.Tensor:
    """A mask of the left half, five of ten cells."""
    mask = torch.zeros(1, 96, 80)
    mask[..., :40] = 1
    return mask


def dialled(rig, model, value: float):
    return rig.attachments.at_dial(model, value)


def waves(picture: torch.Tensor) -> torch.Tensor:
    """Cosine coefficients of the left half, the right one taken for its mean."""
    filled = picture.double().clone()
    filled[..., 5:] = filled[..., :5].mean((-2, -1), keepdim=True)
    return torch.from_numpy(scipy.fft.dctn(filled.numpy(), axes=(-2, -1), norm="ortho"))


def beyond(band: float) -> torch.Tensor:
    """Which coefficients of a latent of 12x10 cells are held."""
    u, v = torch.arange(12)[:, None] / 11, torch.arange(10)[None] / 9
    return u + v > 2 * band


# off is off


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_off_is_the_models_own_output_bit_for_bit(rig, styled, sampler):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(styled, source, sampler=sampler)
    for made in (
        rig.ordinary.protected(styled, left(), strength=0.0),
        rig.ordinary.protected(styled, left(), **NEVER),
        dialled(rig, rig.ordinary.protected(styled, left()), 0.0),
    ):
        assert torch.equal(rig.ordinary.sample(made, source, sampler=sampler), plain)
    assert (
        rig.runs.moved(rig.ordinary.sample(rig.ordinary.protected(styled, left()), source, sampler=sampler), plain) > 1
    )


@pytest.mark.parametrize("window", [(1.0, 0.0), (0.0, 0.1), (0.97, 1.0)])
def test_window_outside_the_runs_levels_needs_no_content(rig, micro, window):
    empty = torch.zeros(1, 4, 12, 10)
    made = rig.ordinary.protected(micro, left(), start=window[0], end=window[1])
    assert torch.equal(rig.ordinary.sample(made, empty), rig.ordinary.sample(micro, empty))


@pytest.mark.parametrize("value", [0.05, 0.5, 2.0])
def test_half_a_style_is_protected_from_as_wholly(rig, micro, value):
    """The dial scales styles; a region stays protected wholly as long as there is any."""
    source, made = rig.runs.latent(), rig.ordinary.protected(micro, left(), band=0.2)
    assert torch.equal(rig.ordinary.sample(dialled(rig, made, value), source), rig.ordinary.sample(made, source))


# in each step


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize(("band", "strength"), [(0.15, 1.0), (0.3, 1.0), (0.15, 0.4)])
def test_each_estimate_has_the_contents_high_band_inside(rig, prediction, band, strength):
    micro = rig.micro.unet(prediction=prediction)
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(micro, source)
    steps = rig.ordinary.steps_of(rig.ordinary.protected(micro, left(), band=band, strength=strength), source)
    assert len(steps) == 4
    for (x, estimate), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False):
        own = rig.ordinary.own_estimate(micro, x, sigma)
        spectrum = waves(content - own) * beyond(band)
        high = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))[..., :5]
        scale = rig.runs.moved(own, content)
        assert rig.runs.moved(estimate[..., :5], own[..., :5] + strength * high) < 1e-4 * scale
        assert rig.runs.moved(estimate[..., 5:], own[..., 5:]) < 1e-4 * scale


def test_outside_the_step_is_the_models_own_to_the_last_bit(rig, micro):
    source = rig.runs.latent()
    for band in (0.0, 0.2):
        estimate = rig.ordinary.one_step(rig.ordinary.protected(micro, left(), band=band), source)
        plain = rig.ordinary.one_step(micro, source)
        assert torch.equal(estimate[..., 5:], plain[..., 5:])
        assert rig.runs.moved(estimate[..., :5], plain[..., :5]) > 0.5


def test_both_layouts_of_the_model_calls(rig, micro, calls):
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(micro, source)
    result = rig.ordinary.one_step(rig.ordinary.protected(micro, left()), source)
    assert torch.equal(result[..., :5], content[..., :5])
    assert torch.equal(result[..., 5:], rig.ordinary.one_step(micro, source)[..., 5:])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_all_bands_give_the_region_back(rig, micro, sampler, family):
    model = micro if family == "eps" else rig.micro.flux()
    source = rig.runs.latent() if family == "eps" else rig.runs.latent(1, 16, 12, 10)
    sigmas = rig.ordinary.SIGMAS if family == "eps" else (1.0, 0.6, 0.3, 0.0)
    run = {"sampler": sampler, "sigmas": sigmas, "conditionings": rig.runs.pair(64, 0 if family == "eps" else 32)}
    result = rig.ordinary.sample(rig.ordinary.protected(model, left()), source, **run)
    assert rig.runs.moved(result[..., :5], source[..., :5]) < 1e-4
    assert rig.runs.moved(result[..., 5:], source[..., 5:]) > 0.05


def test_window_acts_between_its_levels_alone(rig, micro):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5."""
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(micro, source)
    steps = rig.ordinary.steps_of(rig.ordinary.protected(micro, left(), start=0.5, end=0.8), source)
    kept = [torch.equal(estimate[..., :5], content[..., :5]) for _, estimate in steps]
    assert kept == [False, True, True, False]


@pytest.mark.parametrize("batch", [1, 3])
def test_content_of_its_own_and_one_for_a_batch(rig, micro, batch):
    other = rig.runs.drawn(1, 4, 12, 10, seed=21)
    made = rig.ordinary.protected(micro, left(), content=other)
    for source in (torch.zeros(batch, 4, 12, 10), rig.runs.latent(batch, 4, 12, 10)):
        result = rig.ordinary.sample(made, source)
        assert rig.runs.moved(result[..., :5], other.expand_as(result)[..., :5]) < 1e-4


def test_a_mask_for_each_picture(rig, micro):
    source, masks = rig.runs.latent(), torch.cat([left(), 1 - left()])
    result = rig.ordinary.sample(rig.ordinary.protected(micro, masks), source)
    gap = (result - source).abs().amax(1)
    assert gap[0, :, :5].max() < 1e-4 and gap[1, :, 5:].max() < 1e-4
    assert gap[0, :, 5:].max() > 0.05 and gap[1, :, :5].max() > 0.05


def test_a_cell_in_part_is_held_in_part(rig, micro):
    """The mask's border lies in the middle of a column of cells."""
    source, mask = rig.runs.latent(), torch.zeros(1, 96, 80)
    mask[..., :36] = 1
    content = rig.ordinary.in_scale(micro, source)
    plain = rig.ordinary.one_step(micro, source)
    found = rig.ordinary.one_step(rig.ordinary.protected(micro, mask), source)
    assert rig.runs.moved(found[..., 4], (plain + content)[..., 4] / 2) < 1e-5
    assert torch.equal(found[..., :4], content[..., :4])


# beside others


def test_protection_comes_after_guidance_refiner_and_regularizer(rig, styled):
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(styled, source)
    made = rig.ordinary.everything(rig.ordinary.protected(styled, left()), edit=False)
    found, others = (rig.ordinary.one_step(one, source) for one in (made, rig.ordinary.everything(styled, edit=False)))
    assert torch.equal(found[..., :5], content[..., :5]) and torch.equal(found[..., 5:], others[..., 5:])


@pytest.mark.parametrize("edit", [False, True])
def test_region_stays_while_the_score_moves_the_rest(rig, styled, edit):
    source = rig.runs.latent()
    result = rig.ordinary.sample(rig.ordinary.guided(rig.ordinary.protected(styled, left()), edit=edit), source)
    assert rig.runs.moved(result[..., :5], source[..., :5]) < 1e-4 < 1e-2 < rig.runs.moved(result, source)


def test_a_noise_mask_still_keeps_what_it_keeps(rig, micro):
    """The upper half may be sampled; of it the left half is protected."""
    source, free = rig.runs.latent(), torch.zeros(1, 1, 12, 10)
    free[:, :, :6] = 1
    result = rig.ordinary.sample(rig.ordinary.protected(micro, left()), source, denoise_mask=free)
    gap = (result - source).abs().amax((0, 1))
    assert gap[6:].max() < 1e-4 and gap[:6, :5].max() < 1e-4 and gap[:6, 5:].max() > 0.05


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_style_guider_under_an_ordinary_sampler(rig, styled, cfg):
    source = rig.runs.latent()
    guider = rig.runs.guider(rig.ordinary.protected(styled, left()), cfg=cfg)
    result = rig.ordinary.sample(None, source, guider=guider)
    assert rig.runs.moved(result[..., :5], source[..., :5]) < 1e-4 < 0.05 < rig.runs.moved(result, source)


def test_shared_attention_injection_and_pag_beside_it(rig, micro):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    source = rig.runs.latent()
    content = rig.ordinary.in_scale(micro, source)
    for other in (
        rig.sharing.shared,
        rig.effects.injecting,
        lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
    ):
        plain = rig.ordinary.one_step(other(micro), source)
        for made in (rig.ordinary.protected(other(micro), left()), other(rig.ordinary.protected(micro, left()))):
            found = rig.ordinary.one_step(made, source)
            assert torch.equal(found[..., :5], content[..., :5]) and torch.equal(found[..., 5:], plain[..., 5:])


def test_controlnet_beside_it(rig, comfy, wiring_model, wiring_files):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    model, known = wiring_model("sd15"), FAMILIES["sd15"]
    control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
    control = control.set_cond_hint(torch.rand(1, 3, 96, 80), 1.0, (0.0, 1.0))
    pair = rig.runs.pair(known.width, known.pooled)
    prompts = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in pair.items()}
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(model, source)
    found = rig.ordinary.one_step(rig.ordinary.protected(model, left()), source, conditionings=prompts)
    plain = rig.ordinary.one_step(model, source, conditionings=prompts)
    assert torch.equal(found[..., :5], content[..., :5]) and torch.equal(found[..., 5:], plain[..., 5:])
    assert rig.runs.moved(plain, rig.ordinary.one_step(model, source, conditionings=pair)) > 1e-4


# SMS


@pytest.mark.parametrize("proximal", [False, True])
def test_sms_keeps_the_region(rig, styled, proximal):
    source = rig.runs.latent()
    free = rig.runs.sms(styled, source, proximal=proximal, relevance_floor=0.2)
    found = rig.runs.sms(rig.ordinary.protected(styled, left()), source, proximal=proximal, relevance_floor=0.2)
    assert rig.runs.moved(found[..., :5], source[..., :5]) < 1e-5  # into the model's scale and back
    assert rig.runs.moved(found[..., 5:], source[..., 5:]) > 0.05
    assert rig.runs.moved(free[..., :5], source[..., :5]) > 0.05


def test_sms_moves_the_regions_low_band_alone(rig, styled):
    source, band = rig.runs.latent(), 0.15
    found = rig.runs.sms(rig.ordinary.protected(styled, left(), band=band), source, steps=6)
    # what is taken off and what is left are not quite apart, since the region does not fill the latent
    change = (found - source)[..., :5]
    free = (rig.runs.sms(styled, source, steps=6) - source)[..., :5]
    tone = change.mean((2, 3), keepdim=True)
    assert tone.abs().max() > 0.01
    assert (change - tone).norm() < 0.5 * (free - free.mean((2, 3), keepdim=True)).norm()


def test_sms_off_is_off_and_half_a_dial_protects_wholly(rig, styled):
    source = rig.runs.latent()
    plain = rig.runs.sms(styled, source)
    assert torch.equal(rig.runs.sms(rig.ordinary.protected(styled, left(), strength=0.0), source), plain)
    made = rig.ordinary.protected(styled, left())
    assert torch.equal(rig.runs.sms(dialled(rig, made, 0.0), source), source)
    half = rig.runs.sms(dialled(rig, made, 0.5), source)
    assert rig.runs.moved(half[..., :5], source[..., :5]) < 1e-5 < 0.02 < rig.runs.moved(half, source)


def test_sms_with_a_noise_mask(rig, styled):
    source, free = rig.runs.latent(), torch.zeros(1, 1, 12, 10)
    free[:, :, :6] = 1
    result = rig.runs.sms(rig.ordinary.protected(styled, left()), source, mask=free)
    gap = (result - source).abs().amax((0, 1))
    assert gap[6:].max() == 0 and gap[:6, :5].max() < 1e-5 and gap[:6, 5:].max() > 0.02


# refusals, and what is left


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def test_mask_of_another_aspect_or_number_is_refused_by_name(rig, styled):
    source = rig.runs.latent()
    cases = {"64x64 pixels, the picture about 80x96": (1, 64, 64), "3 entries for 2 pictures": (3, 96, 80)}
    for said, shape in cases.items():
        made = rig.ordinary.protected(styled, torch.ones(shape))
        for run in (rig.ordinary.sample, rig.runs.sms):
            message = refusal(lambda run=run, made=made: run(made, source))
            assert message.startswith("Stylize Protect Region, mask: it ") and said in message


@pytest.mark.parametrize("shape", [(1, 4, 12, 12), (1, 16, 12, 10), (3, 4, 12, 10)])
def test_content_that_does_not_fit_is_refused(rig, micro, shape):
    made = rig.ordinary.protected(micro, left(), content=torch.ones(shape))
    message = refusal(lambda: rig.ordinary.sample(made, rig.runs.latent()))
    assert message.startswith(f"Stylize Protect Region, content: its latent is {shape}, the run's is (2, 4, 12, 10).")


def test_empty_latent_is_refused(rig, micro):
    made = rig.ordinary.protected(micro, left())
    message = refusal(lambda: rig.ordinary.sample(made, torch.zeros(1, 4, 12, 10)))
    assert message.startswith("Stylize Protect Region, content: the run starts from an empty latent")


@pytest.mark.parametrize("ending", ["success", "exception", "interrupt", "refusal"])
def test_nothing_is_left_on_the_model(rig, styled, ending):
    made, source = rig.ordinary.protected(styled, left(), band=0.2), rig.runs.latent()
    expected = rig.ordinary.sample(made, source)  # ComfyUI itself marks a module that it has loaded once
    kept, before = source.clone(), rig.leaks.state(made)
    if ending == "success":
        rig.ordinary.sample(made, source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            rig.ordinary.sample(made, source, callback=rig.endings.interrupting_at(1))
    elif ending == "refusal":
        refusal(lambda: rig.ordinary.sample(made, torch.zeros_like(source)))
    else:
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.sample(rig.endings.failing_after(made, 10), source)
    assert rig.leaks.state(made) == before
    assert torch.equal(source, kept) and torch.equal(rig.ordinary.sample(made, source), expected)


def test_clones_do_not_see_each_others_region(rig, micro):
    source = rig.runs.latent()
    one, two = (rig.ordinary.protected(micro, mask) for mask in (left(), 1 - left()))
    first = [rig.ordinary.sample(model, source) for model in (micro, one, two)]
    again = [rig.ordinary.sample(model, source) for model in (two, one.clone(), micro)]
    assert torch.equal(again[0], first[2]) and torch.equal(again[1], first[1]) and torch.equal(again[2], first[0])
