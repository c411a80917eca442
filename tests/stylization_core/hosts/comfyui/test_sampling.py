"""Regularizer and refiner in runs of ComfyUI's own samplers, and what holds for everything that acts in their steps."""

from __future__ import annotations

import gc

import pytest
import scipy.fft
import torch

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun")
WHOLE = {"hold": 1.0, "band": 1.0, "color": 1.0}
NEVER = {"start": 1.0, "end": 0.0}


@pytest.fixture
def micro(rig):
    return rig.micro.unet()


@pytest.fixture
def path(rig, micro, tmp_path):
    return rig.loras.saved(rig.loras.kohya(micro), tmp_path / "style.safetensors")


@pytest.fixture
def styled(rig, micro, path):
    return rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8))


@pytest.fixture
def stock(rig, micro, path):
    """The same style by ComfyUI's own weight patching."""
    return rig.loras.weight_patched(micro, path, 0.8)


def moved(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def dialled(rig, model, value: float):
    clone = model.clone()
    clone.model_options["transformer_options"][rig.dial.DIAL] = value
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
    source = rig.ordinary.latent()
    plain = rig.ordinary.sample(styled, source, sampler=sampler)
    for name, made in nothing_attached(rig, styled).items():
        assert torch.equal(rig.ordinary.sample(made(), source, sampler=sampler), plain), name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_is_not(rig, styled, sampler):
    """Each of the three moves the result of each sampler, so that the test above compares something."""
    source = rig.ordinary.latent()
    plain = rig.ordinary.sample(styled, source, sampler=sampler)
    for made in (
        rig.ordinary.held(styled, hold=0.2),
        rig.ordinary.refined(styled, floor=0.5, mask=torch.zeros(1, 96, 80)),
        rig.ordinary.guided(styled, strength=0.2, edit=False),
        rig.ordinary.guided(styled, edit=True),
    ):
        result = rig.ordinary.sample(made, source, sampler=sampler)
        assert torch.isfinite(result).all()
        assert moved(result, plain) > 0.05


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
    source = rig.ordinary.latent()
    before = rig.ordinary.sample(styled, source)
    rig.ordinary.sample(rig.ordinary.everything(styled), source)
    assert torch.equal(rig.ordinary.sample(styled, source), before)


def test_dial_is_a_factor_on_each(rig, styled):
    source, mask = rig.ordinary.latent(), torch.zeros(1, 96, 80)
    half = rig.ordinary.sample(dialled(rig, rig.ordinary.held(styled, hold=0.6), 0.5), source)
    assert torch.equal(half, rig.ordinary.sample(rig.ordinary.held(styled, hold=0.3), source))
    half = rig.ordinary.sample(dialled(rig, rig.ordinary.refined(styled, floor=0.0, mask=mask), 0.5), source)
    assert torch.equal(half, rig.ordinary.sample(rig.ordinary.refined(styled, floor=0.5, mask=mask), source))
    for edit in (False, True):
        half = rig.ordinary.sample(dialled(rig, rig.ordinary.guided(styled, strength=1.0, edit=edit), 0.5), source)
        assert torch.equal(half, rig.ordinary.sample(rig.ordinary.guided(styled, strength=0.5, edit=edit), source))


def test_dial_beyond_one_does_not_overshoot_the_content(rig, styled):
    source = rig.ordinary.latent()
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
    source = rig.ordinary.latent()
    levels = torch.tensor(rig.ordinary.SIGMAS[:-1])
    timesteps = micro.get_model_object("model_sampling").timestep(levels).tolist()
    content = rig.ordinary.in_scale(micro, source)
    steps = rig.ordinary.steps_of(rig.ordinary.held(micro, hold=hold, band=band, color=color), source)
    for step, (x, estimate) in enumerate(steps):
        own = rig.ordinary.own_estimate(micro, x, rig.ordinary.SIGMAS[step])
        expected = held_spectrum(own, content, timesteps, step, hold, band, color)
        found = torch.from_numpy(scipy.fft.dctn(estimate.double().numpy(), axes=(-2, -1), norm="ortho"))
        assert moved(found, expected) < 1e-4 * moved(own, content)
    assert len(steps) == 4


def test_whole_hold_at_the_first_level_is_the_content_itself(rig, micro):
    source = rig.ordinary.latent()
    (_, estimate), *later = rig.ordinary.steps_of(rig.ordinary.held(micro, **WHOLE), source)
    content = rig.ordinary.in_scale(micro, source)
    assert moved(estimate, content) < 1e-4
    assert all(moved(one, content) > 0.05 for _, one in later)


def test_proximal_form_lets_large_differences_go(rig, micro):
    """Coefficients move by at most the hold times their mean modulus; those below it take the content's."""
    source = rig.ordinary.latent()
    content = rig.ordinary.in_scale(micro, source)
    (x, estimate), *_ = rig.ordinary.steps_of(rig.ordinary.held(micro, hold=1.0, proximal=True), source)
    own = rig.ordinary.own_estimate(micro, x, rig.ordinary.SIGMAS[0])
    spectra = [scipy.fft.dctn(one.double().numpy(), axes=(-2, -1), norm="ortho") for one in (own, content, estimate)]
    own, content, found = map(torch.from_numpy, spectra)
    difference = own - content
    limit = difference.abs().mean((-2, -1), keepdim=True)
    expected = content + difference.sign() * (difference.abs() - limit).clamp_min(0)
    assert moved(found, expected) < 1e-4 * moved(own, content)


@pytest.mark.parametrize("batch", [1, 3])
def test_content_of_its_own_takes_the_place_of_the_runs_input(rig, micro, batch):
    """Also for a run from an empty latent, and one content for a batch."""
    other = rig.runs.drawn(1, 4, 8, 8, seed=21)
    made = rig.ordinary.held(micro, **WHOLE, content=other)
    for source in (torch.zeros(batch, 4, 8, 8), rig.ordinary.latent(batch, 4, 8, 8)):
        (_, estimate), *_ = rig.ordinary.steps_of(made, source)
        assert moved(estimate, rig.ordinary.in_scale(micro, other).expand_as(estimate)) < 1e-4


def test_window_acts_between_its_levels_alone(rig, micro):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5."""
    source = rig.ordinary.latent()
    steps = rig.ordinary.steps_of(rig.ordinary.held(micro, **WHOLE, start=0.5, end=0.8), source)
    gaps = [
        moved(estimate, rig.ordinary.own_estimate(micro, x, s))
        for (x, estimate), s in zip(steps, rig.ordinary.SIGMAS, strict=False)
    ]
    scale = moved(rig.ordinary.in_scale(micro, source), steps[0][1])
    assert [gap > 1e-4 * scale for gap in gaps] == [False, True, True, False]


def test_flow_model_narrows_by_the_timestep_of_the_same_signal_to_noise(rig):
    flux, source = rig.micro.flux(), rig.ordinary.latent(1, 16, 8, 8)
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
        assert moved(found, expected) < 1e-4 * own.abs().max()


# refiner


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_black_mask_with_floor_zero_gives_the_content_back(rig, micro, sampler, family):
    model = micro if family == "eps" else rig.micro.flux()
    source = rig.ordinary.latent() if family == "eps" else rig.ordinary.latent(1, 16, 8, 8)
    sigmas = rig.ordinary.SIGMAS if family == "eps" else (1.0, 0.6, 0.3, 0.0)
    run = {"sampler": sampler, "sigmas": sigmas, "conditionings": rig.runs.pair(64, 0 if family == "eps" else 32)}
    result = rig.ordinary.sample(
        rig.ordinary.refined(model, floor=0.0, mask=torch.zeros(1, 32, 32)), source[..., :8, :8], **run
    )
    assert moved(result, source[..., :8, :8]) < 1e-4


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_mask_places_each_estimate(rig, micro, floor):
    source, content = rig.ordinary.latent(), rig.ordinary.in_scale(micro, rig.ordinary.latent())
    mask = torch.zeros(2, 96, 80)
    mask[0, :, 40:], mask[1, 48:] = 1.0, 0.6
    weights = torch.zeros(2, 1, 12, 10)
    weights[0, :, :, 5:], weights[1, :, 6:] = 1.0, 0.6
    steps = rig.ordinary.steps_of(rig.ordinary.refined(micro, floor=floor, mask=mask), source)
    for (x, estimate), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False):
        own = rig.ordinary.own_estimate(micro, x, sigma)
        expected = content + weights.clamp_min(floor) * (own - content)
        assert moved(estimate, expected) < 1e-4 * moved(own, content)


def test_prompts_make_the_map_of_the_relevance_node(rig, micro):
    source, content = rig.ordinary.latent(), rig.ordinary.in_scale(micro, rig.ordinary.latent())
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
        assert moved(estimate, content + sampler.map * (own - content)) < 1e-4 * moved(own, content)


def test_live_map_is_made_at_each_level_from_the_runs_own_noise(rig, micro):
    source, content = rig.ordinary.latent(), rig.ordinary.in_scale(micro, rig.ordinary.latent())
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
        assert moved(estimate, content + relevance * (own - content)) < 2e-3 * moved(own, content)


def test_map_from_prompts_costs_eight_rows_once_or_two_at_each_step(rig, micro):
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    for live, extra in ((False, [("base", "base")] * 4), (True, [])):
        recorded, rows = rig.runs.recording(micro)
        rig.ordinary.sample(rig.ordinary.refined(recorded, live=live, **prompts), rig.ordinary.latent(1, 4, 8, 8))
        step = [(), ("base", "base")] if live else [()]
        assert [names for _, names, _ in rows] == extra + step * 4
        assert all(count == 2 for *_, count in rows)


# order


def test_order_is_guidance_refiner_regularizer(rig, micro, styled, stock):
    source, content = rig.ordinary.latent(), rig.ordinary.in_scale(micro, rig.ordinary.latent())
    made = rig.ordinary.held(styled, hold=0.5)
    made = rig.ordinary.guided(
        rig.ordinary.refined(made, floor=0.3, mask=torch.zeros(1, 96, 80)), strength=2.0, edit=False
    )
    ((x, estimate),) = rig.ordinary.steps_of(made, source, sigmas=rig.ordinary.ONE_STEP)
    own = rig.ordinary.own_estimate(micro, x, 0.7) + 2.0 * rig.ordinary.score(micro, stock, x, 0.7)
    placed = content + 0.3 * (own - content)
    assert moved(estimate, content + 0.5 * (placed - content)) < 1e-4 * moved(own, content)


def test_wrapper_is_added_once(rig, styled):
    made = rig.ordinary.everything(styled)
    (wrapper,) = made.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.sampling.KEY)
    assert callable(wrapper)
    assert not styled.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.sampling.KEY)


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_style_guider_under_an_ordinary_sampler_is_held_too(rig, styled, cfg):
    source = rig.ordinary.latent()
    made = rig.ordinary.refined(rig.ordinary.held(styled, hold=0.5), floor=0.0, mask=torch.zeros(1, 96, 80))
    result = rig.ordinary.sample(None, source, guider=rig.runs.guider(made, cfg=cfg))
    assert moved(result, source) < 1e-4
    assert moved(rig.ordinary.sample(None, source, guider=rig.runs.guider(styled, cfg=cfg)), source) > 0.5


# SMS reads the settings itself


def test_sms_passes_through_and_reads_the_settings_of_the_model(rig, styled):
    source, mask = rig.ordinary.latent(), torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    made = rig.ordinary.refined(
        rig.ordinary.held(styled, hold=1.0, weight=3.0, proximal=True, color=0.2), floor=0.2, mask=mask
    )
    recorded, rows = rig.runs.recording(rig.ordinary.guided(made, edit=True))
    found = rig.runs.sms(recorded, source, spectrum=7.0, relevance_floor=0.9)
    assert len(rows) == 4  # no map from the guider's prompts, nothing beside the steps
    expected = by_sampler(rig, styled, source, mask)
    assert torch.equal(found, expected)
    assert moved(found, rig.runs.sms(styled, source)) > 1e-3


def by_sampler(rig, styled, source, mask):
    """The same settings given to the sampler instead of the MODEL."""
    kinds = rig.settings
    sampler = rig.sms.StyleMatchingSampler(
        spectrum=kinds.SpectrumHold(weight=3.0, proximal=True, color=0.2),
        refinement=kinds.Refinement(floor=0.2, mask=mask),
    )
    with torch.inference_mode():
        sigmas = rig.runs.bounds(styled, 4, source)
        return rig.runs.guider(styled).sample(torch.zeros_like(source), source, sampler, sigmas, seed=3)


def test_prompts_of_a_refiner_on_the_model_make_the_map_of_sms(rig, styled):
    source, edit, empty = rig.ordinary.latent(), rig.runs.conditioning(7), rig.runs.conditioning(8)
    found = rig.runs.sms(rig.ordinary.refined(styled, floor=0.3, edit=edit, empty=empty), source)
    prompts = {**rig.runs.pair(), "edit": edit, "empty": empty}
    assert torch.equal(found, rig.runs.sms(styled, source, conditionings=prompts, relevance_floor=0.3))
    assert not torch.equal(found, rig.runs.sms(styled, source, relevance_floor=0.3))


def test_relevance_map_of_a_model_with_settings_is_the_plain_models(rig, styled):
    """The map's questions are no sampling steps: no content is needed, no other map is made on the way."""
    source = rig.ordinary.latent()
    wrong = torch.ones(1, 4, 5, 5)
    made = rig.ordinary.refined(
        rig.ordinary.held(styled, content=wrong), edit=rig.runs.conditioning(7), empty=rig.runs.conditioning(8)
    )
    recorded, rows = rig.runs.recording(made)
    maps = []
    for model in (recorded, styled):
        sampler = rig.relevance_map.RelevanceSampler()
        with torch.inference_mode():
            rig.ordinary.guider_of(model).sample(
                torch.zeros_like(source), source, sampler, torch.tensor([1.0, 0.0]), seed=3
            )
        maps.append(sampler.map)
    assert torch.equal(*maps)
    assert len(rows) == 4


# refusals


def refusal(rig, model, source, **settings) -> str:
    with pytest.raises(ValueError) as caught:
        rig.ordinary.sample(model, source, **settings)
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def named(rig, model, **settings):
    """Regularizer and refiner with the same content, under their display names."""
    mask = torch.zeros(1, 96, 80)
    return {
        "Stylize Spectrum Regularizer": rig.ordinary.held(model, **settings),
        "Stylize Semantic Refiner": rig.ordinary.refined(model, mask=mask, **settings),
    }


@pytest.mark.parametrize("shape", [(1, 4, 12, 12), (1, 16, 12, 10), (3, 4, 12, 10)])
def test_content_that_does_not_fit_is_refused_with_both_shapes(rig, micro, shape):
    for name, made in named(rig, micro, content=torch.ones(shape)).items():
        message = refusal(rig, made, rig.ordinary.latent())
        assert message.startswith(f"{name}, content: its latent is {shape}, the run's is (2, 4, 12, 10).")
        assert "VAE of this model" in message


def test_empty_latent_is_refused_by_name(rig, micro, styled):
    empty = torch.zeros(1, 4, 12, 10)
    nodes = {**named(rig, micro), "Stylize SMS Guidance": rig.ordinary.guided(styled, edit=True)}
    for name, made in nodes.items():
        message = refusal(rig, made, empty)
        # guidance has no input for a content of its own
        subject = "latent_image" if name == "Stylize SMS Guidance" else "content"
        assert message.startswith(f"{name}, {subject}: the run starts from an empty latent")
        assert f"VAE Encode of your picture to {subject}" in message


def test_add_does_not_need_a_picture(rig, styled):
    empty = torch.zeros(1, 4, 8, 8)
    assert (
        moved(rig.ordinary.sample(rig.ordinary.guided(styled, edit=False), empty), rig.ordinary.sample(styled, empty))
        > 0.05
    )


def test_mask_of_another_aspect_is_refused_by_name(rig, micro):
    message = refusal(rig, rig.ordinary.refined(micro, mask=torch.ones(1, 64, 64)), rig.ordinary.latent())
    assert message.startswith("Stylize Semantic Refiner, mask: it is 64x64 pixels, the picture about 80x96.")


def test_second_node_of_a_kind_is_refused(rig, styled):
    attach, kinds = rig.settings.attach_once, rig.settings
    keys = {kinds.SPECTRUM: kinds.REGULARIZER, kinds.REFINEMENT: kinds.REFINER, kinds.GUIDANCE: kinds.SCORE_GUIDANCE}
    for key, node in keys.items():
        once = attach(styled, key, object(), node)
        with pytest.raises(ValueError) as caught:
            attach(once, key, object(), node)
        assert str(caught.value) == (
            f"model: it has gone through a '{node}' already. Keep one '{node}' on the way to the sampler."
        )
        assert styled.get_attachment(key) is None


# nothing left


def failing_at(patcher, call: int):
    """A clone whose network, of seven attention blocks, raises after so many calls."""
    clone, blocks = patcher.clone(), []

    def fail(q, k, v, options):
        blocks.append(1)
        if len(blocks) > 7 * call:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    clone.set_model_attn1_patch(fail)
    return clone


def run_to(rig, ending: str, model, source) -> None:
    def interrupt(step, denoised, x, total):
        if step == 1:
            rig.model_management.interrupt_current_processing(True)

    if ending == "success":
        rig.ordinary.sample(model, source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            rig.ordinary.sample(model, source, callback=interrupt)
    else:
        call = {"exception in the map": 1, "exception in a step": 5}[ending]
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.sample(failing_at(model, call), source)


ENDINGS = ("success", "exception in the map", "exception in a step", "interrupt")


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_on_the_model(rig, micro, styled, path, ending, two):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8) if two else None
    made, source = rig.ordinary.everything(micro if two else styled, second), rig.ordinary.latent()
    rig.ordinary.sample(made, source)  # ComfyUI itself marks a module that it has loaded once
    kept, watched = source.clone(), [made, *([second] if two else [])]
    before = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    expected = rig.ordinary.sample(made, source)
    run_to(rig, ending, made, source)
    after = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    assert after == before
    assert before[0]["hooks"] == [] and before[0]["forwards"] == []
    for one in watched:
        assert rig.leaks.network(one)["hooks"] == []
        assert one.model.current_patcher is None  # ComfyUI's sign of a run in progress
    assert torch.equal(source, kept)
    assert torch.equal(rig.ordinary.sample(made, source), expected)


def test_refused_content_closes_the_second_model_too(rig, micro, path):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    made = rig.ordinary.held(rig.ordinary.guided(micro, second), content=torch.ones(1, 4, 5, 5))
    refusal(rig, made, rig.ordinary.latent())
    assert second.model.current_patcher is None


def test_clones_do_not_see_each_others_settings(rig, styled):
    source = rig.ordinary.latent()
    one, two = rig.ordinary.held(styled, hold=0.2), rig.ordinary.held(rig.ordinary.guided(styled, edit=False), hold=0.9)
    three = one.clone()
    plain, *alone = [rig.ordinary.sample(model, source) for model in (styled, one, two)]
    again = [rig.ordinary.sample(model, source) for model in (two, three, one, styled)]
    assert torch.equal(again[0], alone[1]) and torch.equal(again[1], alone[0]) and torch.equal(again[2], alone[0])
    assert torch.equal(again[3], plain)
    assert not torch.equal(alone[0], plain) and not torch.equal(*alone)


def test_ten_runs_leave_no_more_than_one(rig, styled):
    made, source = rig.ordinary.everything(styled), rig.ordinary.latent(1, 4, 8, 8)

    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    for _ in range(2):
        rig.ordinary.sample(made, source, sigmas=rig.ordinary.ONE_STEP)
    before, state = tensors(), rig.leaks.patcher_state(made)
    for _ in range(10):
        rig.ordinary.sample(made, source, sigmas=rig.ordinary.ONE_STEP)
    assert tensors() <= before
    assert rig.leaks.patcher_state(made) == state


def test_runs_neither_draw_from_nor_depend_on_the_global_generator(rig, styled):
    made, source = rig.ordinary.everything(styled), rig.ordinary.latent()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rig.ordinary.sample(made, source)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(rig.ordinary.sample(made, source), first)
