"""Regularizer and refiner in runs of ComfyUI's own samplers, and what holds for everything that acts in their steps."""

from __future__ import annotations

import pytest
import scipy.fft
import torch

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun")
WHOLE = {"hold": 1.0, "band": 1.0, "color": 1.0}
NEVER = {"start": 1.0, "end": 0.0}


def dialled(rig, model, value: float):
    clone = model.clone()
    clone.model_options["transformer_options"][rig.attachments.DIAL] = value
    return clone


# off is off


def nothing_attached(rig, model):
    return {
        "hold 0": lambda: rig.ordinary.held(model, hold=0.0),
        "regularizer's window": lambda: rig.ordinary.held(model, **WHOLE, **NEVER),
        "floor 1": lambda: rig.ordinary.refined(model, floor=1.0, mask=torch.zeros(1, 12, 10)),
        "mask of ones": lambda: rig.ordinary.refined(model, floor=0.3, mask=torch.ones(1, 96, 80)),
        "refiner's window": lambda: rig.ordinary.refined(model, floor=0.0, mask=torch.zeros(1, 12, 10), **NEVER),
        "guidance 0, add": lambda: rig.ordinary.guided(model, strength=0.0, edit=False),
        "guidance 0, edit": lambda: rig.ordinary.guided(model, strength=0.0, edit=True),
        "guidance's window, add": lambda: rig.ordinary.guided(model, edit=False, **NEVER),
        "guidance's window, edit": lambda: rig.ordinary.guided(model, edit=True, **NEVER),
        "dial 0": lambda: dialled(rig, rig.ordinary.everything(model), 0.0),
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_off_is_the_models_own_output_bit_for_bit(rig, styled, sampler):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(styled, source, sampler=sampler)
    for name, made in nothing_attached(rig, styled).items():
        assert torch.equal(rig.ordinary.sample(made(), source, sampler=sampler), plain), name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_is_not(rig, styled, sampler):
    """Each of the three moves the result of each sampler, so that the test above compares something."""
    source = rig.runs.latent()
    plain = rig.ordinary.sample(styled, source, sampler=sampler)
    for made in (
        rig.ordinary.held(styled, hold=0.2),
        rig.ordinary.refined(styled, floor=0.5, mask=torch.zeros(1, 96, 80)),
        rig.ordinary.guided(styled, strength=0.2, edit=False),
        rig.ordinary.guided(styled, edit=True),
    ):
        result = rig.ordinary.sample(made, source, sampler=sampler)
        assert torch.isfinite(result).all()
        assert rig.runs.moved(result, plain) > 0.05


@pytest.mark.parametrize("window", [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.1), (0.97, 1.0)])
def test_window_outside_the_runs_levels_asks_for_nothing(rig, styled, window):
    """Neither extra rows nor a content: an empty latent can be sampled. The run goes from 3.0 to 0.2."""
    recorded, rows = rig.runs.recording(styled)
    start, end = window
    empty, prompts = torch.zeros(1, 4, 8, 8), {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    made = rig.ordinary.held(rig.ordinary.guided(recorded, edit=True, start=start, end=end), start=start, end=end)
    found = rig.ordinary.sample(rig.ordinary.refined(made, start=start, end=end, **prompts), empty)
    assert [names for _, names, _ in rows] == [()] * 4
    assert torch.equal(found, rig.ordinary.sample(styled, empty))


def test_removed_node_leaves_the_models_own_output(rig, styled):
    source = rig.runs.latent()
    before = rig.ordinary.sample(styled, source)
    rig.ordinary.sample(rig.ordinary.everything(styled), source)
    assert torch.equal(rig.ordinary.sample(styled, source), before)


def test_dial_is_a_factor_on_each(rig, styled):
    source, mask = rig.runs.latent(), torch.zeros(1, 96, 80)
    half = rig.ordinary.sample(dialled(rig, rig.ordinary.held(styled, hold=0.6), 0.5), source)
    assert torch.equal(half, rig.ordinary.sample(rig.ordinary.held(styled, hold=0.3), source))
    half = rig.ordinary.sample(dialled(rig, rig.ordinary.refined(styled, floor=0.0, mask=mask), 0.5), source)
    assert torch.equal(half, rig.ordinary.sample(rig.ordinary.refined(styled, floor=0.5, mask=mask), source))
    for edit in (False, True):
        half = rig.ordinary.sample(dialled(rig, rig.ordinary.guided(styled, strength=1.0, edit=edit), 0.5), source)
        assert torch.equal(half, rig.ordinary.sample(rig.ordinary.guided(styled, strength=0.5, edit=edit), source))


def test_dial_beyond_one_does_not_overshoot_the_content(rig, styled):
    source = rig.runs.latent()
    made = rig.ordinary.held(rig.ordinary.refined(styled, floor=0.0, mask=torch.zeros(1, 96, 80)), **WHOLE)
    assert torch.equal(rig.ordinary.sample(dialled(rig, made, 3.0), source), rig.ordinary.sample(made, source))


# regularizer


def held_spectrum(own, content, timesteps, step, hold, band, color):
    """The estimate's cosine coefficients, by scipy: u/(H-1) + v/(W-1) up to twice the rate are held."""
    own, content = (scipy.fft.dctn(one.double().numpy(), axes=(-2, -1), norm="ortho") for one in (own, content))
    height, width = own.shape[-2:]
    rate = band * timesteps[step] / timesteps[0]
    u, v = torch.arange(height)[:, None] / (height - 1), torch.arange(width)[None, :] / (width - 1)
    shares = ((u + v <= 2 * rate + 1e-9).double() * hold).numpy()
    shares[0, 0] *= color
    return torch.from_numpy(own + shares * (content - own))


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize(("hold", "band", "color"), [(1.0, 1.0, 1.0), (0.4, 0.3, 1.0), (0.7, 1.0, 0.2)])
def test_regularizer_holds_the_low_band_of_each_estimate(rig, prediction, hold, band, color):
    micro = rig.micro.unet(prediction=prediction)
    source = rig.runs.latent()
    levels = torch.tensor(rig.ordinary.SIGMAS[:-1])
    timesteps = micro.get_model_object("model_sampling").timestep(levels).tolist()
    content = rig.ordinary.in_scale(micro, source)
    steps = rig.ordinary.steps_of(rig.ordinary.held(micro, hold=hold, band=band, color=color), source)
    for step, (x, estimate) in enumerate(steps):
        own = rig.ordinary.own_estimate(micro, x, rig.ordinary.SIGMAS[step])
        expected = held_spectrum(own, content, timesteps, step, hold, band, color)
        found = torch.from_numpy(scipy.fft.dctn(estimate.double().numpy(), axes=(-2, -1), norm="ortho"))
        assert rig.runs.moved(found, expected) < 1e-4 * rig.runs.moved(own, content)
    assert len(steps) == 4


def test_whole_hold_at_the_first_level_is_the_content_itself(rig, micro):
    source = rig.runs.latent()
    (_, estimate), *later = rig.ordinary.steps_of(rig.ordinary.held(micro, **WHOLE), source)
    content = rig.ordinary.in_scale(micro, source)
    assert rig.runs.moved(estimate, content) < 1e-4
    assert all(rig.runs.moved(one, content) > 0.05 for _, one in later)


def test_proximal_form_lets_large_differences_go(rig, micro):
    """Coefficients move by at most the hold times their mean modulus; those below it take the content's."""
    source = rig.runs.latent()
    content = rig.ordinary.in_scale(micro, source)
    (x, estimate), *_ = rig.ordinary.steps_of(rig.ordinary.held(micro, hold=1.0, proximal=True), source)
    own = rig.ordinary.own_estimate(micro, x, rig.ordinary.SIGMAS[0])
    spectra = [scipy.fft.dctn(one.double().numpy(), axes=(-2, -1), norm="ortho") for one in (own, content, estimate)]
    own, content, found = map(torch.from_numpy, spectra)
    difference = own - content
    limit = difference.abs().mean((-2, -1), keepdim=True)
    expected = content + difference.sign() * (difference.abs() - limit).clamp_min(0)
    assert rig.runs.moved(found, expected) < 1e-4 * rig.runs.moved(own, content)


@pytest.mark.parametrize("batch", [1, 3])
def test_content_of_its_own_takes_the_place_of_the_runs_input(rig, micro, batch):
    """Also for a run from an empty latent, and one content for a batch."""
    other = rig.runs.drawn(1, 4, 8, 8, seed=21)
    made = rig.ordinary.held(micro, **WHOLE, content=other)
    for source in (torch.zeros(batch, 4, 8, 8), rig.runs.latent(batch, 4, 8, 8)):
        (_, estimate), *_ = rig.ordinary.steps_of(made, source)
        assert rig.runs.moved(estimate, rig.ordinary.in_scale(micro, other).expand_as(estimate)) < 1e-4


def test_window_acts_between_its_levels_alone(rig, micro):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5."""
    source = rig.runs.latent()
    steps = rig.ordinary.steps_of(rig.ordinary.held(micro, **WHOLE, start=0.5, end=0.8), source)
    gaps = [
        rig.runs.moved(estimate, rig.ordinary.own_estimate(micro, x, s))
        for (x, estimate), s in zip(steps, rig.ordinary.SIGMAS, strict=False)
    ]
    scale = rig.runs.moved(rig.ordinary.in_scale(micro, source), steps[0][1])
    assert [gap > 1e-4 * scale for gap in gaps] == [False, True, True, False]


def test_flow_model_narrows_by_the_timestep_of_the_same_signal_to_noise(rig):
    flux, source = rig.micro.flux(), rig.runs.latent(1, 16, 8, 8)
    sigmas, conditionings = (0.75, 0.5, 0.2, 0.0), rig.runs.pair(64, 32)
    steps = rig.ordinary.steps_of(
        rig.ordinary.held(flux, **WHOLE), source, sigmas=sigmas, conditionings=conditionings, cfg=1.0
    )
    chain = rig.micro.unet().get_model_object("model_sampling")
    timesteps = chain.timestep(torch.tensor([s / (1 - s) for s in sigmas[:-1]])).tolist()
    for step, (x, estimate) in enumerate(steps):
        own = rig.ordinary.own_estimate(flux, x, sigmas[step], 1.0, conditionings)
        expected = held_spectrum(own, rig.ordinary.in_scale(flux, source), timesteps, step, 1.0, 1.0, 1.0)
        found = torch.from_numpy(scipy.fft.dctn(estimate.double().numpy(), axes=(-2, -1), norm="ortho"))
        assert rig.runs.moved(found, expected) < 1e-4 * own.abs().max()


# refiner


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_black_mask_with_floor_zero_gives_the_content_back(rig, micro, sampler, family):
    model = micro if family == "eps" else rig.micro.flux()
    source = rig.runs.latent() if family == "eps" else rig.runs.latent(1, 16, 8, 8)
    sigmas = rig.ordinary.SIGMAS if family == "eps" else (1.0, 0.6, 0.3, 0.0)
    run = {"sampler": sampler, "sigmas": sigmas, "conditionings": rig.runs.pair(64, 0 if family == "eps" else 32)}
    result = rig.ordinary.sample(
        rig.ordinary.refined(model, floor=0.0, mask=torch.zeros(1, 32, 32)), source[..., :8, :8], **run
    )
    assert rig.runs.moved(result, source[..., :8, :8]) < 1e-4


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_mask_places_each_estimate(rig, micro, floor):
    source, content = rig.runs.latent(), rig.ordinary.in_scale(micro, rig.runs.latent())
    mask = torch.zeros(2, 96, 80)
    mask[0, :, 40:], mask[1, 48:] = 1.0, 0.6
    weights = torch.zeros(2, 1, 12, 10)
    weights[0, :, :, 5:], weights[1, :, 6:] = 1.0, 0.6
    steps = rig.ordinary.steps_of(rig.ordinary.refined(micro, floor=floor, mask=mask), source)
    for (x, estimate), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False):
        own = rig.ordinary.own_estimate(micro, x, sigma)
        expected = content + weights.clamp_min(floor) * (own - content)
        assert rig.runs.moved(estimate, expected) < 1e-4 * rig.runs.moved(own, content)


def test_prompts_make_the_map_of_the_relevance_node(rig, micro):
    source, content = rig.runs.latent(), rig.ordinary.in_scale(micro, rig.runs.latent())
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    sampler = rig.relevance_map.RelevanceSampler(floor=0.2)
    guider = rig.ordinary.guider_of(micro, {"positive": prompts["edit"], "negative": prompts["empty"]})
    with torch.inference_mode():
        guider.sample(torch.zeros_like(source), source, sampler, torch.tensor([1.0, 0.0]), seed=3)
    assert sampler.map.min() == pytest.approx(0.2) and sampler.map.max() == pytest.approx(1.0)
    for (x, estimate), sigma in zip(
        rig.ordinary.steps_of(rig.ordinary.refined(micro, floor=0.2, **prompts), source),
        rig.ordinary.SIGMAS,
        strict=False,
    ):
        own = rig.ordinary.own_estimate(micro, x, sigma)
        assert rig.runs.moved(estimate, content + sampler.map * (own - content)) < 1e-4 * rig.runs.moved(own, content)


def test_live_map_is_made_at_each_level_from_the_runs_own_noise(rig, micro):
    source, content = rig.runs.latent(), rig.ordinary.in_scale(micro, rig.runs.latent())
    noise, edit, empty = rig.ordinary.unit_noise(source), rig.runs.conditioning(7), rig.runs.conditioning(8)
    made = rig.ordinary.refined(micro, floor=0.1, edit=edit, empty=empty, live=True)
    steps = rig.ordinary.steps_of(made, source)
    for (x, estimate), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False):
        asked = {"positive": edit, "negative": empty}
        answers = rig.runs.plain(micro, asked, content + sigma * noise, sigma)
        field = (answers["positive"] - answers["negative"]).mean(1, keepdim=True).abs()
        low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
        relevance = 0.1 + 0.9 * (field - low) / (high - low)
        own = rig.ordinary.own_estimate(micro, x, sigma)
        assert rig.runs.moved(estimate, content + relevance * (own - content)) < 2e-3 * rig.runs.moved(own, content)


def test_map_from_prompts_costs_eight_rows_once_or_two_at_each_step(rig, micro):
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    for live, extra in ((False, [("base", "base")] * 4), (True, [])):
        recorded, rows = rig.runs.recording(micro)
        rig.ordinary.sample(rig.ordinary.refined(recorded, live=live, **prompts), rig.runs.latent(1, 4, 8, 8))
        step = [(), ("base", "base")] if live else [()]
        assert [names for _, names, _ in rows] == extra + step * 4
        assert all(count == 2 for *_, count in rows)


# order


def test_order_is_guidance_refiner_regularizer(rig, micro, styled, stock):
    source, content = rig.runs.latent(), rig.ordinary.in_scale(micro, rig.runs.latent())
    made = rig.ordinary.held(styled, hold=0.5)
    made = rig.ordinary.guided(
        rig.ordinary.refined(made, floor=0.3, mask=torch.zeros(1, 96, 80)), strength=2.0, edit=False
    )
    ((x, estimate),) = rig.ordinary.steps_of(made, source, sigmas=rig.ordinary.ONE_STEP)
    own = rig.ordinary.own_estimate(micro, x, 0.7) + 2.0 * rig.ordinary.score(micro, stock, x, 0.7)
    placed = content + 0.3 * (own - content)
    assert rig.runs.moved(estimate, content + 0.5 * (placed - content)) < 1e-4 * rig.runs.moved(own, content)


def test_wrapper_is_added_once(rig, styled):
    made = rig.ordinary.everything(styled)
    (wrapper,) = made.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.guidance_run.KEY)
    assert callable(wrapper)
    assert not styled.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.guidance_run.KEY)


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_style_guider_under_an_ordinary_sampler_is_held_too(rig, styled, cfg):
    source = rig.runs.latent()
    made = rig.ordinary.refined(rig.ordinary.held(styled, hold=0.5), floor=0.0, mask=torch.zeros(1, 96, 80))
    result = rig.ordinary.sample(None, source, guider=rig.runs.guider(made, cfg=cfg))
    assert rig.runs.moved(result, source) < 1e-4
    assert rig.runs.moved(rig.ordinary.sample(None, source, guider=rig.runs.guider(styled, cfg=cfg)), source) > 0.5
