"""Regularizer, refiner and score guidance in runs of ComfyUI's own samplers."""

from __future__ import annotations

import gc

import pytest
import scipy.fft
import torch

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun")
SIGMAS = (3.0, 1.5, 0.7, 0.2, 0.0)
ONE_STEP = (0.7, 0.0)
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


@pytest.fixture(params=["batched", "split"])
def calls(request, rig, micro, monkeypatch):
    if request.param == "split":
        rig.runs.split_calls(monkeypatch, micro)
    return request.param


def latent(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


def unit_noise(rig, like: torch.Tensor) -> torch.Tensor:
    return rig.runs.drawn(*like.shape, seed=12)


def moved(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


# what the nodes do


def held(rig, model, **settings):
    settings = rig.settings.SpectrumHold(**settings)
    node = rig.settings.REGULARIZER
    return rig.sampling.acting(rig.settings.attach_once(model, rig.settings.SPECTRUM, settings, node))


def refined(rig, model, **settings):
    settings = rig.settings.Refinement(**settings)
    return rig.sampling.acting(rig.settings.attach_once(model, rig.settings.REFINEMENT, settings, rig.settings.REFINER))


def guided(rig, model, style_model=None, **settings):
    style = rig.style_source.find_style(model, style_model)
    settings = rig.settings.ScoreGuidance(style, **settings)
    node = rig.settings.SCORE_GUIDANCE
    clone = rig.settings.attach_once(model, rig.settings.GUIDANCE, settings, node)
    if style.patcher is not None:
        clone.set_additional_models(rig.style_guider.SECOND_MODEL, [style.patcher])
    return rig.sampling.acting(clone)


def dialled(rig, model, value: float):
    clone = model.clone()
    clone.model_options["transformer_options"][rig.dial.DIAL] = value
    return clone


def everything(rig, model, style_model=None, *, edit: bool = True):
    """All three at once, with a map made from prompts."""
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    return held(rig, refined(rig, guided(rig, model, style_model, edit=edit), **prompts), hold=0.5)


# runs


def guider_of(rig, model, conditionings=None, cfg: float = 4.5):
    import comfy.samplers

    made = comfy.samplers.CFGGuider(model)
    made.inner_set_conds(rig.runs.pair() if conditionings is None else conditionings)
    made.set_cfg(cfg)
    return made


def sample(
    rig, model, source, *, sampler="euler", sigmas=SIGMAS, cfg=4.5, conditionings=None, noise=None, guider=None, **run
) -> torch.Tensor:
    """A LATENT sampled from ``source`` by a sampler of ComfyUI's."""
    import comfy.samplers

    guider = guider or guider_of(rig, model, conditionings, cfg)
    noise = unit_noise(rig, source) if noise is None else noise
    chosen, levels = comfy.samplers.sampler_object(sampler), torch.tensor(sigmas)
    with torch.inference_mode():
        return guider.sample(noise, source, chosen, levels, seed=3, disable_pbar=True, **run)


def steps_of(rig, model, source, **settings) -> list[tuple]:
    """(x, denoised) that the sampler saw at each step."""
    seen: list[tuple] = []
    callback = lambda step, denoised, x, total: seen.append((x.clone(), denoised.clone()))  # noqa: E731
    sample(rig, model, source, callback=callback, **settings)
    return seen


def own_estimate(rig, model, x: torch.Tensor, sigma: float, cfg: float = 4.5, conditionings=None) -> torch.Tensor:
    """Guided prediction by ComfyUI alone."""
    parts = rig.runs.plain(model, conditionings or rig.runs.pair(), x, sigma)
    return parts["negative"] + cfg * (parts["positive"] - parts["negative"])


def score(rig, base, style, x: torch.Tensor, sigma: float, conditionings=None) -> torch.Tensor:
    """D_style - D_base for the positive prompt, each by ComfyUI alone."""
    conditionings = conditionings or rig.runs.pair()
    two = [rig.runs.plain(model, conditionings, x, sigma)["positive"] for model in (style, base)]
    return two[0] - two[1]


def in_scale(model, source: torch.Tensor) -> torch.Tensor:
    return model.model.process_latent_in(source)


# off is off


def nothing_attached(rig, model):
    return {
        "hold 0": lambda: held(rig, model, hold=0.0),
        "regularizer's window": lambda: held(rig, model, **WHOLE, **NEVER),
        "floor 1": lambda: refined(rig, model, floor=1.0, mask=torch.zeros(1, 12, 10)),
        "mask of ones": lambda: refined(rig, model, floor=0.3, mask=torch.ones(1, 96, 80)),
        "refiner's window": lambda: refined(rig, model, floor=0.0, mask=torch.zeros(1, 12, 10), **NEVER),
        "guidance 0, add": lambda: guided(rig, model, strength=0.0, edit=False),
        "guidance 0, edit": lambda: guided(rig, model, strength=0.0, edit=True),
        "guidance's window, add": lambda: guided(rig, model, edit=False, **NEVER),
        "guidance's window, edit": lambda: guided(rig, model, edit=True, **NEVER),
        "dial 0": lambda: dialled(rig, everything(rig, model), 0.0),
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_off_is_the_models_own_output_bit_for_bit(rig, styled, sampler):
    source = latent(rig)
    plain = sample(rig, styled, source, sampler=sampler)
    for name, made in nothing_attached(rig, styled).items():
        assert torch.equal(sample(rig, made(), source, sampler=sampler), plain), name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_is_not(rig, styled, sampler):
    """Each of the three moves the result of each sampler, so that the test above compares something."""
    source = latent(rig)
    plain = sample(rig, styled, source, sampler=sampler)
    for made in (
        held(rig, styled, hold=0.2),
        refined(rig, styled, floor=0.5, mask=torch.zeros(1, 96, 80)),
        guided(rig, styled, strength=0.2, edit=False),
        guided(rig, styled, edit=True),
    ):
        result = sample(rig, made, source, sampler=sampler)
        assert torch.isfinite(result).all()
        assert moved(result, plain) > 0.05


@pytest.mark.parametrize("window", [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.1), (0.97, 1.0)])
def test_window_outside_the_runs_levels_asks_for_nothing(rig, styled, window):
    """Neither extra rows nor a content: an empty latent can be sampled. The run goes from 3.0 to 0.2."""
    recorded, rows = rig.runs.recording(styled)
    start, end = window
    empty, prompts = torch.zeros(1, 4, 8, 8), {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    made = held(rig, guided(rig, recorded, edit=True, start=start, end=end), start=start, end=end)
    found = sample(rig, refined(rig, made, start=start, end=end, **prompts), empty)
    assert [names for _, names, _ in rows] == [()] * 4
    assert torch.equal(found, sample(rig, styled, empty))


def test_removed_node_leaves_the_models_own_output(rig, styled):
    source = latent(rig)
    before = sample(rig, styled, source)
    sample(rig, everything(rig, styled), source)
    assert torch.equal(sample(rig, styled, source), before)


def test_dial_is_a_factor_on_each(rig, styled):
    source, mask = latent(rig), torch.zeros(1, 96, 80)
    half = sample(rig, dialled(rig, held(rig, styled, hold=0.6), 0.5), source)
    assert torch.equal(half, sample(rig, held(rig, styled, hold=0.3), source))
    half = sample(rig, dialled(rig, refined(rig, styled, floor=0.0, mask=mask), 0.5), source)
    assert torch.equal(half, sample(rig, refined(rig, styled, floor=0.5, mask=mask), source))
    for edit in (False, True):
        half = sample(rig, dialled(rig, guided(rig, styled, strength=1.0, edit=edit), 0.5), source)
        assert torch.equal(half, sample(rig, guided(rig, styled, strength=0.5, edit=edit), source))


def test_dial_beyond_one_does_not_overshoot_the_content(rig, styled):
    source = latent(rig)
    made = held(rig, refined(rig, styled, floor=0.0, mask=torch.zeros(1, 96, 80)), **WHOLE)
    assert torch.equal(sample(rig, dialled(rig, made, 3.0), source), sample(rig, made, source))


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
    source = latent(rig)
    levels = torch.tensor(SIGMAS[:-1])
    timesteps = micro.get_model_object("model_sampling").timestep(levels).tolist()
    content = in_scale(micro, source)
    steps = steps_of(rig, held(rig, micro, hold=hold, band=band, color=color), source)
    for step, (x, estimate) in enumerate(steps):
        own = own_estimate(rig, micro, x, SIGMAS[step])
        expected = held_spectrum(own, content, timesteps, step, hold, band, color)
        found = torch.from_numpy(scipy.fft.dctn(estimate.double().numpy(), axes=(-2, -1), norm="ortho"))
        assert moved(found, expected) < 1e-4 * moved(own, content)
    assert len(steps) == 4


def test_whole_hold_at_the_first_level_is_the_content_itself(rig, micro):
    source = latent(rig)
    (_, estimate), *later = steps_of(rig, held(rig, micro, **WHOLE), source)
    content = in_scale(micro, source)
    assert moved(estimate, content) < 1e-4
    assert all(moved(one, content) > 0.05 for _, one in later)


def test_proximal_form_lets_large_differences_go(rig, micro):
    """Coefficients move by at most the hold times their mean modulus; those below it take the content's."""
    source = latent(rig)
    content = in_scale(micro, source)
    (x, estimate), *_ = steps_of(rig, held(rig, micro, hold=1.0, proximal=True), source)
    own = own_estimate(rig, micro, x, SIGMAS[0])
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
    made = held(rig, micro, **WHOLE, content=other)
    for source in (torch.zeros(batch, 4, 8, 8), latent(rig, batch, 4, 8, 8)):
        (_, estimate), *_ = steps_of(rig, made, source)
        assert moved(estimate, in_scale(micro, other).expand_as(estimate)) < 1e-4


def test_window_acts_between_its_levels_alone(rig, micro):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5."""
    source = latent(rig)
    steps = steps_of(rig, held(rig, micro, **WHOLE, start=0.5, end=0.8), source)
    gaps = [moved(estimate, own_estimate(rig, micro, x, s)) for (x, estimate), s in zip(steps, SIGMAS, strict=False)]
    scale = moved(in_scale(micro, source), steps[0][1])
    assert [gap > 1e-4 * scale for gap in gaps] == [False, True, True, False]


def test_flow_model_narrows_by_the_timestep_of_the_same_signal_to_noise(rig):
    flux, source = rig.micro.flux(), latent(rig, 1, 16, 8, 8)
    sigmas, conditionings = (0.75, 0.5, 0.2, 0.0), rig.runs.pair(64, 32)
    steps = steps_of(rig, held(rig, flux, **WHOLE), source, sigmas=sigmas, conditionings=conditionings, cfg=1.0)
    chain = rig.micro.unet().get_model_object("model_sampling")
    timesteps = chain.timestep(torch.tensor([s / (1 - s) for s in sigmas[:-1]])).tolist()
    for step, (x, estimate) in enumerate(steps):
        own = own_estimate(rig, flux, x, sigmas[step], 1.0, conditionings)
        expected = held_spectrum(own, in_scale(flux, source), timesteps, step, 1.0, 1.0, 1.0)
        found = torch.from_numpy(scipy.fft.dctn(estimate.double().numpy(), axes=(-2, -1), norm="ortho"))
        assert moved(found, expected) < 1e-4 * own.abs().max()


# refiner


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_black_mask_with_floor_zero_gives_the_content_back(rig, micro, sampler, family):
    model = micro if family == "eps" else rig.micro.flux()
    source = latent(rig) if family == "eps" else latent(rig, 1, 16, 8, 8)
    sigmas = SIGMAS if family == "eps" else (1.0, 0.6, 0.3, 0.0)
    run = {"sampler": sampler, "sigmas": sigmas, "conditionings": rig.runs.pair(64, 0 if family == "eps" else 32)}
    result = sample(rig, refined(rig, model, floor=0.0, mask=torch.zeros(1, 32, 32)), source[..., :8, :8], **run)
    assert moved(result, source[..., :8, :8]) < 1e-4


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_mask_places_each_estimate(rig, micro, floor):
    source, content = latent(rig), in_scale(micro, latent(rig))
    mask = torch.zeros(2, 96, 80)
    mask[0, :, 40:], mask[1, 48:] = 1.0, 0.6
    weights = torch.zeros(2, 1, 12, 10)
    weights[0, :, :, 5:], weights[1, :, 6:] = 1.0, 0.6
    steps = steps_of(rig, refined(rig, micro, floor=floor, mask=mask), source)
    for (x, estimate), sigma in zip(steps, SIGMAS, strict=False):
        own = own_estimate(rig, micro, x, sigma)
        expected = content + weights.clamp_min(floor) * (own - content)
        assert moved(estimate, expected) < 1e-4 * moved(own, content)


def test_prompts_make_the_map_of_the_relevance_node(rig, micro):
    source, content = latent(rig), in_scale(micro, latent(rig))
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    sampler = rig.relevance_map.RelevanceSampler(floor=0.2)
    guider = guider_of(rig, micro, {"positive": prompts["edit"], "negative": prompts["empty"]})
    with torch.inference_mode():
        guider.sample(torch.zeros_like(source), source, sampler, torch.tensor([1.0, 0.0]), seed=3)
    assert sampler.map.min() == pytest.approx(0.2) and sampler.map.max() == pytest.approx(1.0)
    for (x, estimate), sigma in zip(
        steps_of(rig, refined(rig, micro, floor=0.2, **prompts), source), SIGMAS, strict=False
    ):
        own = own_estimate(rig, micro, x, sigma)
        assert moved(estimate, content + sampler.map * (own - content)) < 1e-4 * moved(own, content)


def test_live_map_is_made_at_each_level_from_the_runs_own_noise(rig, micro):
    source, content = latent(rig), in_scale(micro, latent(rig))
    noise, edit, empty = unit_noise(rig, source), rig.runs.conditioning(7), rig.runs.conditioning(8)
    made = refined(rig, micro, floor=0.1, edit=edit, empty=empty, live=True)
    steps = steps_of(rig, made, source)
    for (x, estimate), sigma in zip(steps, SIGMAS, strict=False):
        asked = {"positive": edit, "negative": empty}
        answers = rig.runs.plain(micro, asked, content + sigma * noise, sigma)
        field = (answers["positive"] - answers["negative"]).mean(1, keepdim=True).abs()
        low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
        relevance = 0.1 + 0.9 * (field - low) / (high - low)
        own = own_estimate(rig, micro, x, sigma)
        assert moved(estimate, content + relevance * (own - content)) < 2e-3 * moved(own, content)


def test_map_from_prompts_costs_eight_rows_once_or_two_at_each_step(rig, micro):
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8)}
    for live, extra in ((False, [("base", "base")] * 4), (True, [])):
        recorded, rows = rig.runs.recording(micro)
        sample(rig, refined(rig, recorded, live=live, **prompts), latent(rig, 1, 4, 8, 8))
        step = [(), ("base", "base")] if live else [()]
        assert [names for _, names, _ in rows] == extra + step * 4
        assert all(count == 2 for *_, count in rows)


# score guidance


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("strength", [0.6, 2.0])
def test_add_is_the_plain_estimate_and_the_score(rig, micro, styled, stock, calls, cfg, strength):
    steps = steps_of(rig, guided(rig, styled, strength=strength, edit=False), latent(rig), cfg=cfg)
    for (x, estimate), sigma in zip(steps, SIGMAS, strict=False):
        added = strength * score(rig, micro, stock, x, sigma)
        expected = own_estimate(rig, micro, x, sigma, cfg) + added
        assert moved(estimate, expected) < 1e-4 * added.abs().max()


def edited(rig, base, style, source, sigmas, strength=1.0, conditionings=None, flow=False) -> torch.Tensor:
    """dz = (D_style - D_base) |d sigma| / sigma by Euler's method, on ComfyUI's own predictions."""
    z, noise = in_scale(base, source), unit_noise(rig, source)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = (1 - sigma) * z + sigma * noise if flow else z + sigma * noise
        found = strength * score(rig, base, style, x, sigma, conditionings)
        if flow:  # in sigma / (1 - sigma); from pure noise a step takes all of the score
            ratio, then = (s / (1 - s) if s < 1 else float("inf") for s in (sigma, following))
            z = z + found * (1 - then / ratio)
        else:
            z = z + found * (sigma - following) / sigma
    return base.model.process_latent_out(z)


@pytest.mark.parametrize(("cfg", "strength"), [(1.0, 1.0), (4.5, 1.0), (4.5, 0.5)])
def test_edit_is_the_eulers_integral_of_the_score(rig, micro, styled, stock, calls, cfg, strength):
    source = latent(rig)
    found = sample(rig, guided(rig, styled, strength=strength), source, cfg=cfg)
    expected = edited(rig, micro, stock, source, SIGMAS, strength)
    assert moved(expected, source) > 0.5
    assert moved(found, expected) < 1e-3 * moved(expected, source)


@pytest.mark.parametrize("first", [0.8, 1.0])
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_edit_of_a_flow_goes_by_noise_to_signal(rig, wiring_model, wiring_files, tmp_path, family, first):
    if family == "flux":
        model = rig.micro.flux()
        path = rig.loras.saved(rig.loras.kohya(model), tmp_path / "flux.safetensors")
    else:
        model, path = wiring_model("sd3"), str(wiring_files.path("wiring_lora_sd3_kohya.safetensors"))
    styled = rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8))
    source, sigmas, conditionings = latent(rig, 2, 16, 8, 6), (first, 0.6, 0.35, 0.1, 0.0), rig.runs.pair(64, 32)
    found = sample(rig, guided(rig, styled), source, sigmas=sigmas, conditionings=conditionings)
    style = rig.loras.weight_patched(model, path, 0.8)
    expected = edited(rig, model, style, source, sigmas, conditionings=conditionings, flow=True)
    effect = moved(expected, source)
    assert effect > 1e-3 * source.abs().max()
    assert moved(found, expected) < 2e-3 * effect + 1e-5


def test_edit_of_sdxl(rig, wiring_model, wiring_files):
    model, path = wiring_model("sdxl"), str(wiring_files.path("wiring_lora_sdxl_kohya.safetensors"))
    styled = rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8))
    source, conditionings, sigmas = latent(rig, 1, 4, 8, 8), rig.runs.pair(2048, 1280), (2.0, 0.7, 0.0)
    found = sample(rig, guided(rig, styled), source, sigmas=sigmas, conditionings=conditionings)
    style = rig.loras.weight_patched(model, path, 0.8)
    expected = edited(rig, model, style, source, sigmas, conditionings=conditionings)
    effect = moved(expected, source)
    assert effect > 1e-3 * source.abs().max()
    assert moved(found, expected) < 2e-3 * effect + 1e-5


DETERMINISTIC = ("dpmpp_2m", "heun", "dpm_2", "uni_pc", "lms", "dpmpp_2m_cfg_pp")


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"])
def test_edit_with_other_samplers_goes_the_same_way(rig, styled, sampler):
    """Samplers that draw fresh noise see other scores of this network, whose weights are random."""
    source = latent(rig)
    sigmas = torch.linspace(1.5, 0.0, 13).tolist()
    euler = sample(rig, guided(rig, styled, strength=0.3), source, sigmas=sigmas)
    other = sample(rig, guided(rig, styled, strength=0.3), source, sigmas=sigmas, sampler=sampler)
    along = ((other - source) * (euler - source)).mean() / (euler - source).square().mean()
    lowest, highest = (0.8, 1.2) if sampler in DETERMINISTIC else (0.3, 1.7)
    assert lowest < along < highest


def test_edit_after_its_window_stays_where_it_is(rig, micro, styled, stock):
    """Percents up to 0.7 of the chain are the levels above 0.85."""
    source = latent(rig)
    found = sample(rig, guided(rig, styled, end=0.7), source)
    z = in_scale(micro, source)
    for sigma, following in ((3.0, 1.5), (1.5, 0.7)):
        z = z + score(rig, micro, stock, z + sigma * unit_noise(rig, source), sigma) * (sigma - following) / sigma
    expected = micro.model.process_latent_out(z)
    assert moved(found, expected) < 1e-3 * moved(expected, source)


def test_edit_before_its_window_keeps_the_content(rig, micro, styled):
    """Percents from 0.7 are the levels below 0.85."""
    content = in_scale(micro, latent(rig))
    steps = steps_of(rig, guided(rig, styled, start=0.7), latent(rig))
    gaps = [moved(estimate, content) for _, estimate in steps]
    assert max(gaps[:2]) < 1e-5 and min(gaps[2:]) > 0.05


def test_score_of_a_second_checkpoint_equals_the_gate(rig, micro, styled, path):
    source = latent(rig)
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    carrying = rig.style_branch.attach(rig.micro.unet(), rig.lora_files.load_style(path, micro, 0.8))
    for edit in (False, True):
        gate = sample(rig, guided(rig, styled, edit=edit), source)
        effect = moved(gate, source if edit else sample(rig, styled, source))
        for other in (second, carrying):
            two = sample(rig, guided(rig, micro, other, edit=edit), source)
            assert moved(gate, two) < 1e-3 * effect
            assert other.model.current_patcher is None


def test_second_checkpoint_is_told_the_inpaint_mask(rig, micro, monkeypatch):
    """An inpainting network takes the mask among its inputs."""
    second, seen = rig.micro.unet(seed=1), []
    original = second.model.extra_conds

    def noting(**given):
        seen.append(given.get("denoise_mask"))
        return original(**given)

    monkeypatch.setattr(second.model, "extra_conds", noting)
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    sample(rig, guided(rig, micro, second, edit=False), latent(rig), denoise_mask=mask)
    assert seen and all(torch.equal(one[:1, :1], mask) for one in seen)


# order


def test_order_is_guidance_refiner_regularizer(rig, micro, styled, stock):
    source, content = latent(rig), in_scale(micro, latent(rig))
    made = held(rig, styled, hold=0.5)
    made = guided(rig, refined(rig, made, floor=0.3, mask=torch.zeros(1, 96, 80)), strength=2.0, edit=False)
    ((x, estimate),) = steps_of(rig, made, source, sigmas=ONE_STEP)
    own = own_estimate(rig, micro, x, 0.7) + 2.0 * score(rig, micro, stock, x, 0.7)
    placed = content + 0.3 * (own - content)
    assert moved(estimate, content + 0.5 * (placed - content)) < 1e-4 * moved(own, content)


def test_wrapper_is_added_once(rig, styled):
    made = everything(rig, styled)
    (wrapper,) = made.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.sampling.KEY)
    assert callable(wrapper)
    assert not styled.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.sampling.KEY)


# layout of the calls


def results_by_layout(rig, monkeypatch, model, source, noise, cfg: float) -> list[torch.Tensor]:
    """One step of all pictures at once and of each alone, batched and split."""

    def both() -> list[torch.Tensor]:
        run = {"sigmas": ONE_STEP, "cfg": cfg}
        rows = [slice(i, i + 1) for i in range(source.shape[0])]
        alone = torch.cat([sample(rig, model, source[row], noise=noise[row], **run) for row in rows])
        return [sample(rig, model, source, noise=noise, **run), alone]

    found = both()
    with monkeypatch.context() as patch:
        rig.runs.split_calls(patch, model)
        return found + both()


def spread(results: list[torch.Tensor]) -> float:
    return max(moved(one, results[0]) for one in results[1:])


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_layout_of_the_calls_does_not_matter(rig, styled, monkeypatch, cfg, batch):
    """A score is a guidance term, so the plain model is measured with as much guidance."""
    source, noise = latent(rig, 3, 4, 9, 7)[:batch], rig.runs.drawn(3, 4, 9, 7, seed=12)[:batch]
    plain = results_by_layout(rig, monkeypatch, styled, source, noise, max(cfg, 2.0))
    tolerance = spread(plain)
    assert 0 < tolerance < 1e-4
    for made in (
        guided(rig, styled, edit=False),
        guided(rig, styled, edit=True),
        held(rig, guided(rig, styled, edit=False), hold=0.5),
        refined(rig, styled, floor=0.0, mask=torch.linspace(0, 1, 63).view(1, 9, 7)),
    ):
        results = results_by_layout(rig, monkeypatch, made, source, noise, cfg)
        assert moved(results[0], plain[0]) > 100 * tolerance
        assert spread(results) <= 4 * tolerance


@pytest.mark.parametrize(
    ("cfg", "edit", "names"),
    [
        (4.5, False, ("base", "base", "style")),
        (1.0, False, ("base", "style")),
        (4.5, True, ("base", "style")),
        (1.0, True, ("base", "style")),
    ],
)
def test_rows_of_each_step(rig, styled, cfg, edit, names):
    recorded, rows = rig.runs.recording(styled)
    sample(rig, guided(rig, recorded, edit=edit), latent(rig, 3, 4, 8, 8), cfg=cfg)
    assert [tuple(sorted(found)) for _, found, _ in rows] == [names] * 4
    assert [count for *_, count in rows] == [3 * len(names)] * 4


@pytest.mark.parametrize(("edit", "positives"), [(False, ("base", "base")), (True, ("base",))])
def test_second_checkpoint_takes_the_styles_row(rig, micro, edit, positives):
    (base, rows), (style, second) = rig.runs.recording(micro), rig.runs.recording(rig.micro.unet(seed=1))
    sample(rig, guided(rig, base, style, edit=edit), latent(rig, 3, 4, 8, 8))
    assert [names for _, names, _ in rows] == [positives] * 4
    assert [(names, count) for _, names, count in second] == [(("style",), 3)] * 4


@pytest.mark.parametrize(("edit", "names"), [(False, [0, 3, 3, 0]), (True, [2, 2])])
def test_steps_outside_the_window_cost_nothing_more(rig, styled, edit, names):
    """Added, they are the plain model's steps; an edit asks for nothing at all there."""
    recorded, rows = rig.runs.recording(styled)
    sample(rig, guided(rig, recorded, edit=edit, start=0.5, end=0.8), latent(rig, 1, 4, 8, 8))
    assert [len(found) for _, found, _ in rows] == names


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("edit", [False, True])
def test_attn2_patch_that_indexes_a_pair_sees_polarities(rig, micro, styled, calls, edit, cfg):
    """A gain of 1 for the positive and a half for the negative prompt; a third index would crash."""
    seen = []

    def by_index(n, context, value, extra_options):
        indexes = extra_options["cond_or_uncond"]
        seen.extend(indexes)
        gains = torch.tensor([(1.0, 0.5)[index] for index in indexes]).repeat_interleave(n.shape[0] // len(indexes))
        return n, context, value * gains.view(-1, 1, 1)

    patched, unpatched = styled.clone(), guided(rig, styled, edit=edit)
    patched.set_model_attn2_patch(by_index)
    made, source = guided(rig, patched, edit=edit), latent(rig)
    found = sample(rig, made, source, sigmas=ONE_STEP, cfg=cfg)
    positives, negatives = seen.count(0), seen.count(1)
    assert positives and negatives == (0 if edit or cfg == 1.0 else positives / 2)
    if not edit and cfg != 1.0:
        assert moved(found, sample(rig, unpatched, source, sigmas=ONE_STEP, cfg=cfg)) > 1e-3
    else:  # the positive prompt's gain is 1
        assert torch.equal(found, sample(rig, unpatched, source, sigmas=ONE_STEP, cfg=cfg))


# with other nodes


def pag(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


def sag(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.5, 2.0)[0]


def rescaled(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


def one_step(rig, model, source, **settings) -> torch.Tensor:
    ((_, estimate),) = steps_of(rig, model, source, sigmas=ONE_STEP, **settings)
    return estimate


@pytest.mark.parametrize("other", [pag, sag, rescaled])
def test_score_is_added_to_what_other_guidance_makes(rig, micro, styled, stock, other):
    source = latent(rig)
    with_other = one_step(rig, other(styled), source)
    assert moved(with_other, one_step(rig, styled, source)) > 1e-3
    x = in_scale(micro, source) + 0.7 * unit_noise(rig, source)
    added = score(rig, micro, stock, x, 0.7)
    for made in (guided(rig, other(styled), edit=False), other(guided(rig, styled, edit=False))):
        assert moved(one_step(rig, made, source), with_other + added) < 1e-4 * added.abs().max()


@pytest.mark.parametrize("other", [pag, sag, rescaled])
def test_edit_follows_the_score_alone_whatever_other_guidance_makes(rig, styled, other):
    source = latent(rig)
    expected = sample(rig, guided(rig, styled), source)
    for made in (guided(rig, other(styled)), other(guided(rig, styled))):
        recorded, rows = rig.runs.recording(made)
        assert moved(sample(rig, recorded, source), expected) < 1e-3 * moved(expected, source)
        assert sum(count for *_, count in rows) == 4 * 2 * source.shape[0]


def test_questions_of_other_nodes_are_not_taken_for_the_steps_own(rig, styled):
    """A node may ask again about the very same input, for another prompt or with other attention."""
    import comfy.samplers

    asking = styled.clone()

    def swapped(args):
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"][::-1], args["input"], args["sigma"], args["model_options"]
        )[::-1]

    def ask(args):
        options, x, sigma = args["model_options"], args["input"], args["sigma"]
        comfy.samplers.calc_cond_batch(args["model"], [args["uncond"], None], x, sigma, options)
        comfy.samplers.calc_cond_batch(args["model"], [args["uncond"], args["cond"]], x, sigma, options)
        return args["denoised"]

    asking.set_model_sampler_post_cfg_function(ask)
    source = latent(rig)
    found, rows = rig.runs.recording(guided(rig, asking, edit=False))
    assert torch.equal(sample(rig, found, source), sample(rig, guided(rig, styled, edit=False), source))
    assert [len(names) for _, names, _ in rows] == [3, 0, 0] * 4
    asking.model_options["sampler_calc_cond_batch_function"] = swapped
    found, expected = (sample(rig, guided(rig, one, edit=False), source) for one in (asking, styled))
    assert moved(found, expected) < 1e-3 * moved(expected, sample(rig, styled, source))


def test_other_wrappers_see_the_two_predictions_that_they_expect(rig, styled):
    seen: list[tuple[int, int]] = []

    def note(executor, model, conds, *others):
        found = executor(model, conds, *others)
        seen.append((len(conds), len(found)))
        return found

    for edit in (False, True):
        other = styled.clone()
        other.add_wrapper_with_key(rig.WrappersMP.CALC_COND_BATCH, "test.other", note)
        sample(rig, guided(rig, other, edit=edit), latent(rig))
    assert seen == [(2, 2)] * 8


def areas(rig) -> dict:
    """A prompt for the whole, one for an area, one for a mask; entries of a combined conditioning."""
    runs, mask = rig.runs, torch.zeros(1, 96, 80)
    mask[:, 48:] = 1.0
    placed = runs.conditioning(5, area=(8, 8, 2, 1), strength=0.8) + runs.conditioning(6, mask=mask, mask_strength=0.7)
    return {"positive": runs.conditioning(1) + placed, "negative": runs.conditioning(2)}


def combined(rig) -> dict:
    return {"positive": rig.runs.conditioning(1) + rig.runs.conditioning(5), "negative": rig.runs.conditioning(2)}


@pytest.mark.parametrize("made", [areas, combined])
def test_several_prompts_areas_and_masks(rig, micro, styled, stock, calls, made):
    source, conditionings = latent(rig), made(rig)
    x = in_scale(micro, source) + 0.7 * unit_noise(rig, source)
    added = score(rig, micro, stock, x, 0.7, conditionings)
    assert moved(added, score(rig, micro, stock, x, 0.7)) > 0.05
    own = own_estimate(rig, micro, x, 0.7, conditionings=conditionings)
    add = one_step(rig, guided(rig, styled, edit=False), source, conditionings=conditionings)
    assert moved(add, own + added) < 1e-4 * added.abs().max()
    edit = one_step(rig, guided(rig, styled), source, conditionings=conditionings)
    assert moved(edit, in_scale(micro, source) + added) < 1e-4 * added.abs().max()


@pytest.mark.parametrize("nested", [False, True])
def test_guider_with_three_prompts_gets_a_row_of_its_own(rig, micro, styled, stock, nested):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    source = latent(rig)

    def made(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(rig.runs.conditioning(1), rig.runs.conditioning(4), rig.runs.conditioning(2))
        guider.set_cfg(3.0, 2.0, nested)
        return guider

    recorded, rows = rig.runs.recording(guided(rig, styled, edit=False))
    found = one_step(rig, None, source, guider=made(recorded))
    assert [(names, count) for _, names, count in rows] == [((), 6), (("style",), 2)]
    x = in_scale(micro, source) + 0.7 * unit_noise(rig, source)
    asked = {"positive": rig.runs.conditioning(1 if nested else 4), "negative": rig.runs.conditioning(2)}
    added = (2.0 if nested else 1.0) * score(rig, micro, stock, x, 0.7, asked)
    assert moved(found, one_step(rig, None, source, guider=made(styled)) + added) < 1e-4 * added.abs().max()


def test_perp_neg_guider(rig, micro, styled, stock):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    source = latent(rig)

    def made(model):
        guider = Guider_PerpNeg(model)
        guider.set_conds(*(rig.runs.conditioning(seed) for seed in (1, 2, 4)))
        guider.set_cfg(4.5, 1.0)
        return guider

    x = in_scale(micro, source) + 0.7 * unit_noise(rig, source)
    added = score(rig, micro, stock, x, 0.7)
    plain = one_step(rig, None, source, guider=made(styled))
    found = one_step(rig, None, source, guider=made(guided(rig, styled, edit=False)))
    assert moved(found, plain + added) < 1e-4 * added.abs().max()
    content = in_scale(micro, source)
    edit = one_step(rig, None, source, guider=made(guided(rig, styled)))
    assert moved(edit, content + added) < 1e-4 * added.abs().max()


def test_inpaint_mask_keeps_the_rest_and_edits_within(rig, micro, styled, stock):
    source, noise = latent(rig), unit_noise(rig, latent(rig))
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    found = sample(rig, guided(rig, styled), source, denoise_mask=mask)
    content = z = in_scale(micro, source)
    for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
        x = sigma * noise + mask * z + (1 - mask) * content
        z = z + score(rig, micro, stock, x, sigma) * (sigma - following) / sigma
    expected = micro.model.process_latent_out(mask * z + (1 - mask) * content)
    assert moved(found[..., :5], source[..., :5]) < 1e-4
    assert moved(found[..., 5:], source[..., 5:]) > 0.5
    assert moved(found, expected) < 1e-3 * moved(expected, source)


@pytest.mark.parametrize("edit", [False, True])
def test_controlnet_reaches_style_and_base(rig, wiring_model, wiring_files, edit):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    known, lora = FAMILIES["sd15"], str(wiring_files.path("wiring_lora_sd15_kohya.safetensors"))
    control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
    control.set_cond_hint(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), 1.0, (0.0, 1.0))
    model = wiring_model("sd15")
    styled = rig.style_branch.attach(model, rig.lora_files.load_style(lora, model, 0.8))
    bare = rig.runs.pair(known.width)
    pair = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in bare.items()}
    source = latent(rig, 1, 4, 8, 8)
    x = in_scale(model, source) + 0.7 * unit_noise(rig, source)
    style = rig.loras.weight_patched(model, lora, 0.8)
    added, without = (score(rig, model, style, x, 0.7, conditionings) for conditionings in (pair, bare))
    found = one_step(rig, guided(rig, styled, edit=edit), source, conditionings=pair)
    start = in_scale(model, source) if edit else own_estimate(rig, model, x, 0.7, conditionings=pair)
    assert moved(added, without) > 100 * moved(found, start + added)
    assert moved(found, start + added) < 2e-3 * added.abs().max()


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_style_guider_under_an_ordinary_sampler_is_held_too(rig, styled, cfg):
    source = latent(rig)
    made = refined(rig, held(rig, styled, hold=0.5), floor=0.0, mask=torch.zeros(1, 96, 80))
    result = sample(rig, None, source, guider=rig.runs.guider(made, cfg=cfg))
    assert moved(result, source) < 1e-4
    assert moved(sample(rig, None, source, guider=rig.runs.guider(styled, cfg=cfg)), source) > 0.5


# SMS reads the settings itself


def test_sms_passes_through_and_reads_the_settings_of_the_model(rig, styled):
    source, mask = latent(rig), torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    made = refined(rig, held(rig, styled, hold=1.0, weight=3.0, proximal=True, color=0.2), floor=0.2, mask=mask)
    recorded, rows = rig.runs.recording(guided(rig, made, edit=True))
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
    source, edit, empty = latent(rig), rig.runs.conditioning(7), rig.runs.conditioning(8)
    found = rig.runs.sms(refined(rig, styled, floor=0.3, edit=edit, empty=empty), source)
    prompts = {**rig.runs.pair(), "edit": edit, "empty": empty}
    assert torch.equal(found, rig.runs.sms(styled, source, conditionings=prompts, relevance_floor=0.3))
    assert not torch.equal(found, rig.runs.sms(styled, source, relevance_floor=0.3))


def test_relevance_map_of_a_model_with_settings_is_the_plain_models(rig, styled):
    """The map's questions are no sampling steps: no content is needed, no other map is made on the way."""
    source = latent(rig)
    wrong = torch.ones(1, 4, 5, 5)
    made = refined(rig, held(rig, styled, content=wrong), edit=rig.runs.conditioning(7), empty=rig.runs.conditioning(8))
    recorded, rows = rig.runs.recording(made)
    maps = []
    for model in (recorded, styled):
        sampler = rig.relevance_map.RelevanceSampler()
        with torch.inference_mode():
            guider_of(rig, model).sample(torch.zeros_like(source), source, sampler, torch.tensor([1.0, 0.0]), seed=3)
        maps.append(sampler.map)
    assert torch.equal(*maps)
    assert len(rows) == 4


# refusals


def refusal(rig, model, source, **settings) -> str:
    with pytest.raises(ValueError) as caught:
        sample(rig, model, source, **settings)
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def named(rig, model, **settings):
    """Regularizer and refiner with the same content, under their display names."""
    mask = torch.zeros(1, 96, 80)
    return {
        "Stylize Spectrum Regularizer": held(rig, model, **settings),
        "Stylize Semantic Refiner": refined(rig, model, mask=mask, **settings),
    }


@pytest.mark.parametrize("shape", [(1, 4, 12, 12), (1, 16, 12, 10), (3, 4, 12, 10)])
def test_content_that_does_not_fit_is_refused_with_both_shapes(rig, micro, shape):
    for name, made in named(rig, micro, content=torch.ones(shape)).items():
        message = refusal(rig, made, latent(rig))
        assert message.startswith(f"{name}, content: its latent is {shape}, the run's is (2, 4, 12, 10).")
        assert "VAE of this model" in message


def test_empty_latent_is_refused_by_name(rig, micro, styled):
    empty = torch.zeros(1, 4, 12, 10)
    nodes = {**named(rig, micro), "Stylize SMS Guidance": guided(rig, styled, edit=True)}
    for name, made in nodes.items():
        message = refusal(rig, made, empty)
        assert message.startswith(f"{name}, content: the run starts from an empty latent")
        assert "VAE Encode" in message


def test_add_does_not_need_a_picture(rig, styled):
    empty = torch.zeros(1, 4, 8, 8)
    assert moved(sample(rig, guided(rig, styled, edit=False), empty), sample(rig, styled, empty)) > 0.05


def test_mask_of_another_aspect_is_refused_by_name(rig, micro):
    message = refusal(rig, refined(rig, micro, mask=torch.ones(1, 64, 64)), latent(rig))
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


BLOCKS = 7
"""Attention blocks of the network."""


def failing_at(patcher, call: int):
    """A clone whose network raises after so many calls."""
    clone, blocks = patcher.clone(), []

    def fail(q, k, v, options):
        blocks.append(1)
        if len(blocks) > BLOCKS * call:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    clone.set_model_attn1_patch(fail)
    return clone


def run_to(rig, ending: str, model, source) -> None:
    def interrupt(step, denoised, x, total):
        if step == 1:
            rig.model_management.interrupt_current_processing(True)

    if ending == "success":
        sample(rig, model, source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            sample(rig, model, source, callback=interrupt)
    else:
        call = {"exception in the map": 1, "exception in a step": 5}[ending]
        with pytest.raises(ZeroDivisionError):
            sample(rig, failing_at(model, call), source)


ENDINGS = ("success", "exception in the map", "exception in a step", "interrupt")


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_on_the_model(rig, micro, styled, path, ending, two):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8) if two else None
    made, source = everything(rig, micro if two else styled, second), latent(rig)
    sample(rig, made, source)  # ComfyUI itself marks a module that it has loaded once
    kept, watched = source.clone(), [made, *([second] if two else [])]
    before = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    expected = sample(rig, made, source)
    run_to(rig, ending, made, source)
    after = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    assert after == before
    assert before[0]["hooks"] == [] and before[0]["forwards"] == []
    for one in watched:
        assert rig.leaks.network(one)["hooks"] == []
        assert one.model.current_patcher is None  # ComfyUI's sign of a run in progress
    assert torch.equal(source, kept)
    assert torch.equal(sample(rig, made, source), expected)


def test_refused_content_closes_the_second_model_too(rig, micro, path):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    made = held(rig, guided(rig, micro, second), content=torch.ones(1, 4, 5, 5))
    refusal(rig, made, latent(rig))
    assert second.model.current_patcher is None


def test_clones_do_not_see_each_others_settings(rig, styled):
    source = latent(rig)
    one, two = held(rig, styled, hold=0.2), held(rig, guided(rig, styled, edit=False), hold=0.9)
    three = one.clone()
    plain, *alone = [sample(rig, model, source) for model in (styled, one, two)]
    again = [sample(rig, model, source) for model in (two, three, one, styled)]
    assert torch.equal(again[0], alone[1]) and torch.equal(again[1], alone[0]) and torch.equal(again[2], alone[0])
    assert torch.equal(again[3], plain)
    assert not torch.equal(alone[0], plain) and not torch.equal(*alone)


def test_ten_runs_leave_no_more_than_one(rig, styled):
    made, source = everything(rig, styled), latent(rig, 1, 4, 8, 8)

    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    for _ in range(2):
        sample(rig, made, source, sigmas=ONE_STEP)
    before, state = tensors(), rig.leaks.patcher_state(made)
    for _ in range(10):
        sample(rig, made, source, sigmas=ONE_STEP)
    assert tensors() <= before
    assert rig.leaks.patcher_state(made) == state


def test_runs_neither_draw_from_nor_depend_on_the_global_generator(rig, styled):
    made, source = everything(rig, styled), latent(rig)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(rig, made, source)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(sample(rig, made, source), first)


def test_cost_of_guidance_is_said_beforehand(rig, styled, caplog):
    style = rig.style_source.find_style(styled)
    with caplog.at_level("INFO"):
        for edit in (True, False):
            rig.sampling.log_guidance(rig.settings.ScoreGuidance(style, edit=edit))
    edit, add = caplog.messages
    assert "score guidance: 2 model rows" in edit and "score guidance: 3 (2 at CFG 1) model rows" in add
    assert f"{style.branch.nbytes / 2**20:.1f} MiB" in edit
