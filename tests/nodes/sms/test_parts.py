"""StylizeSMSGuider, StylizeSMSSigmas and StylizeSMSSampler in process, under ComfyUI's SamplerCustomAdvanced."""

from __future__ import annotations

import importlib

import pytest
import torch

GUIDER = {"cfg": 4.5}
SIGMAS = {"steps": 4, "t_max": 0.5, "t_min": 0.02, "narrowing": "linear"}
SAMPLER = {"strength": 1.0, "step_size": 0.1, "levels": "drawn"}
HOLD = {"weight": 1.0, "hold": 0.5, "band": 1.0, "form": "gradient", "color_hold": 1.0}
PLACE = {"floor": 0.1, "map": "precomputed"}
WINDOW = {"start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def parts(pack_nodes):
    return importlib.import_module("stylization.nodes.sms.parts")


@pytest.fixture(scope="module")
def sampling(pack_nodes):
    return importlib.import_module("stylization.nodes.guidance")


@pytest.fixture(scope="module")
def stock(pack_nodes):
    return importlib.import_module("comfy_extras.nodes_custom_sampler")


@pytest.fixture
def guider(rig, parts):
    return lambda model, **given: parts.StylizeSMSGuider.execute(model, **{**rig.runs.pair(), **GUIDER, **given})[0]


@pytest.fixture
def sigmas(parts):
    return lambda model, **given: parts.StylizeSMSSigmas.execute(model, **{**SIGMAS, **given})[0]


@pytest.fixture
def sampler(parts):
    return lambda **given: parts.StylizeSMSSampler.execute(**{**SAMPLER, **given})[0]


@pytest.fixture
def advanced(stock):
    """SamplerCustomAdvanced, as ComfyUI calls it; returns its ``output``."""

    def run(guider, sampler, sigmas, latent: dict, seed: int = 3) -> dict:
        noise = stock.RandomNoise.execute(seed)[0]
        with torch.inference_mode():
            return stock.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)[0]

    return run


@pytest.fixture
def by_parts(rig, advanced, guider, sigmas, sampler):
    """The samples of a run by the three nodes; ``given`` goes to whichever node has an input of that name."""

    def run(model, latent=None, **given) -> torch.Tensor:
        chosen = {name: given.pop(name) for name in tuple(given) if name in SIGMAS}
        drawn = {name: given.pop(name) for name in tuple(given) if name in {*SAMPLER, "content_pull", "step_scale"}}
        drawn.update({name: given.pop(name) for name in tuple(given) if name.startswith("resume")})
        latent = {"samples": picture(rig)} if latent is None else latent
        return advanced(guider(model, **given), sampler(**drawn), sigmas(model, **chosen), latent)["samples"]

    return run


@pytest.fixture
def in_one(rig, pack_nodes):
    """The samples of a run by StylizeSMS; the hold is off unless it is asked for."""

    def run(model, latent=None, **given) -> torch.Tensor:
        arguments = {
            **rig.runs.pair(),
            "latent_image": {"samples": picture(rig)} if latent is None else latent,
            "seed": 3,
            "steps": 4,
            "cfg": 4.5,
            "strength": 1.0,
            "step_size": 0.1,
            "spectrum": 0.0,
            "relevance": "off",
            "relevance_floor": 0.1,
            **given,
        }
        with torch.inference_mode():
            return pack_nodes.StylizeSMS.execute(model, **arguments)[0]["samples"]

    return run


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


# the same run as StylizeSMS


EQUAL = {
    "frozen": lambda rig: {},
    "cfg 1": lambda rig: {"cfg": 1.0},
    "strength": lambda rig: {"strength": 0.4},
    "step size": lambda rig: {"step_size": 0.02},
    "steps": lambda rig: {"steps": 2},
    "source prompt": lambda rig: {"source": rig.runs.conditioning(9)},
    "fake blend": lambda rig: {"fake_blend": 0.3},
    "trained fake score": lambda rig: {"fake_score": "trained"},
    "content pull": lambda rig: {"content_pull": 3.0},
    "step scale": lambda rig: {"step_scale": "per picture"},
    "resumed": lambda rig: {"resume_latent": {"samples": picture(rig) + 0.5}, "resume_step": 2},
}


@pytest.fixture
def frozen(in_one, styled):
    return in_one(styled)


@pytest.mark.parametrize("case", EQUAL)
def test_three_nodes_are_the_one(rig, by_parts, in_one, styled, frozen, case):
    given = EQUAL[case](rig)
    found = by_parts(styled, **given)
    assert torch.equal(found, in_one(styled, **given))
    if given:
        assert (found - frozen).abs().max() > 1e-3


def test_style_model_is_the_style_lora(rig, by_parts, micro, styled, path):
    style = rig.loras.weight_patched(micro, path, 0.8)
    assert torch.equal(by_parts(micro, style_model=style), by_parts(styled))


def test_noise_mask_of_the_latent_is_honoured(rig, by_parts, in_one, styled):
    mask = torch.zeros(2, 1, 96, 80)
    mask[..., 40:] = 1.0
    latent = {"samples": picture(rig), "noise_mask": mask}
    result = by_parts(styled, latent)
    assert torch.equal(result, in_one(styled, latent))
    assert torch.equal(result[..., :5], picture(rig)[..., :5])


def test_regularizer_on_the_model_is_the_spectrum_of_the_one_node(sampling, by_parts, in_one, styled, frozen):
    for hold, inputs in (
        ({}, {"spectrum": 1.0}),
        ({"weight": 2.5, "color_hold": 0.3}, {"spectrum": 2.5, "color_hold": 0.3}),
        ({"form": "proximal"}, {"spectrum": 1.0, "spectrum_form": "proximal"}),
    ):
        held = sampling.StylizeSpectrumRegularizer.execute(styled, **{**HOLD, **WINDOW, **hold})[0]
        found = by_parts(held)
        assert torch.equal(found, in_one(styled, **inputs))
        assert (found - frozen).abs().max() > 1e-4


def test_band_of_the_regularizer_reaches_the_run(sampling, by_parts, styled):
    wide, narrow = (
        by_parts(sampling.StylizeSpectrumRegularizer.execute(styled, **{**HOLD, **WINDOW, "band": band})[0])
        for band in (1.0, 0.2)
    )
    assert (wide - narrow).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["precomputed", "live"])
def test_refiner_on_the_model_is_the_relevance_of_the_one_node(rig, sampling, by_parts, in_one, styled, frozen, kind):
    edit, empty = rig.runs.conditioning(9), rig.runs.pair()["negative"]
    place = {**PLACE, **WINDOW, "floor": 0.2, "map": kind, "edit": edit, "empty": empty}
    found = by_parts(sampling.StylizeSemanticRefiner.execute(styled, **place)[0])
    assert torch.equal(found, in_one(styled, relevance=kind, relevance_floor=0.2, edit=edit))
    assert (found - frozen).abs().max() > 1e-3


def test_mask_of_the_refiner_goes_before_its_prompts(rig, sampling, by_parts, styled):
    mask = torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    prompts = {"edit": rig.runs.conditioning(9), "empty": rig.runs.pair()["negative"]}
    placed = sampling.StylizeSemanticRefiner.execute(styled, **PLACE, **WINDOW, mask=mask, **prompts)[0]
    alone = sampling.StylizeSemanticRefiner.execute(styled, **PLACE, **WINDOW, mask=mask)[0]
    assert torch.equal(by_parts(placed), by_parts(alone))


def test_all_parts_together(rig, sampling, by_parts, in_one, styled):
    edit, empty = rig.runs.conditioning(9), rig.runs.pair()["negative"]
    held = sampling.StylizeSpectrumRegularizer.execute(styled, **{**HOLD, **WINDOW, "weight": 2.0})[0]
    both = sampling.StylizeSemanticRefiner.execute(held, **PLACE, **WINDOW, edit=edit, empty=empty)[0]
    given = {"source": rig.runs.conditioning(8), "fake_blend": 0.1, "content_pull": 0.5}
    one = in_one(styled, spectrum=2.0, relevance="precomputed", edit=edit, **given)
    assert torch.equal(by_parts(both, **given), one)


# off


def test_strength_zero_returns_the_input_latent_itself(rig, advanced, guider, sigmas, sampler, styled):
    samples = picture(rig)
    latent = {"samples": samples, "batch_index": [4, 7], "noise_mask": torch.zeros(1, 1, 96, 80)}
    result = advanced(guider(styled), sampler(strength=0.0), sigmas(styled), latent)
    assert result["samples"] is samples and torch.equal(samples, picture(rig))
    assert result["batch_index"] == [4, 7]


def test_dial_zero_returns_the_input_latent_itself(rig, advanced, guider, sigmas, sampler, styled):
    samples = picture(rig)
    styled.model_options["transformer_options"][rig.attachments.DIAL] = 0
    assert advanced(guider(styled), sampler(), sigmas(styled), {"samples": samples})["samples"] is samples


def test_nothing_is_left_on_the_model(rig, sampling, by_parts, styled):
    prompts = {"edit": rig.runs.conditioning(9), "empty": rig.runs.pair()["negative"]}
    before = rig.leaks.state(styled)
    held = sampling.StylizeSpectrumRegularizer.execute(styled, **HOLD, **WINDOW)[0]
    both = sampling.StylizeSemanticRefiner.execute(held, **PLACE, **WINDOW, **prompts)[0]
    kept = rig.leaks.state(both)
    by_parts(both, fake_score="trained")
    assert rig.leaks.state(both) == kept
    assert rig.leaks.state(styled) == before


# SIGMAS


def test_sigmas_fall_from_the_largest_level_to_the_smallest(rig, sigmas, micro):
    found = sigmas(micro, steps=50)
    assert found.shape == (51,) and (found[1:] <= found[:-1]).all()
    levels = rig.noise_levels.Levels(micro.get_model_object("model_sampling"))
    assert [levels.timestep(float(found[i])) for i in (0, -1)] == [499, 21]


def test_range_and_narrowing_reach_the_sigmas(rig, sigmas, micro):
    levels = rig.noise_levels.Levels(micro.get_model_object("model_sampling"))
    wide = sigmas(micro, steps=5, t_max=0.8, t_min=0.1, narrowing="none")
    assert [levels.timestep(float(sigma)) for sigma in wide] == [799] * 5 + [101]


def test_larger_pictures_get_higher_levels_on_flow_models_only(rig, sigmas, micro):
    large = {"samples": picture(rig, 1, 16, 128, 128)}
    flux = rig.micro.flux()
    assert (sigmas(flux, latent_image=large) > sigmas(flux)).all()
    large = {"samples": picture(rig, 1, 4, 128, 128)}
    assert torch.equal(sigmas(micro, latent_image=large), sigmas(micro))


def test_levels_are_drawn_below_the_sigmas_or_are_the_sigmas(rig, advanced, guider, sigmas, sampler, styled):
    given, seen = sigmas(styled, narrowing="none"), []

    def note(executor, x, t, *args, **kwargs):
        seen.append(float(t.flatten()[0]))
        return executor(x, t, *args, **kwargs)

    noted = styled.clone()
    noted.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.levels", note)
    for levels in ("drawn", "as given"):
        advanced(guider(noted), sampler(levels=levels), given, {"samples": picture(rig)})
    drawn, as_given = seen[:4], seen[4:]
    assert as_given == pytest.approx(given[:-1].tolist())
    assert len(set(drawn)) == 4 and all(given[-1] * 0.999 <= sigma <= given[0] * 1.001 for sigma in drawn)


# the guider under other samplers


def test_ordinary_sampler_under_the_guider_samples_the_style(rig, stock, advanced, guider, micro, styled, path):
    euler = stock.KSamplerSelect.execute("euler")[0]
    steps = stock.BasicScheduler.execute(styled, "normal", 3, 0.5)[0]
    style = rig.loras.weight_patched(micro, path, 0.8)
    given = rig.runs.pair()
    plain = stock.CFGGuider.execute(style, given["positive"], given["negative"], 4.5)[0]
    latent = {"samples": picture(rig)}
    ours, theirs = (advanced(one, euler, steps, latent)["samples"] for one in (guider(styled), plain))
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


# bad input


def with_nan(rig) -> dict:
    samples = picture(rig)
    samples[0, 0, 0, 0] = float("nan")
    return {"samples": samples}


def test_guider_without_a_style_names_the_nodes_to_use(rig, refusal, guider, micro, wiring_model):
    for given in ({}, {"style_model": micro.clone()}, {"style_model": rig.micro.unet()}):
        message = refusal("Stylize SMS Guider", lambda given=given: guider(micro, **given))
        assert message.startswith("Stylize SMS Guider, model")
        assert "'Stylize Style LoRA'" in message and "'Load LoRA'" in message
    assert "the model family WAN21" in refusal("Stylize SMS Guider", lambda: guider(wiring_model("wan")))


BAD_SIGMAS = {
    "t_max below t_min": (lambda rig: {"t_max": 0.1, "t_min": 0.3}, "t_max: it is 0.1 with t_min 0.3. Set t_max"),
    "t_max at t_min": (lambda rig: {"t_max": 0.3, "t_min": 0.3}, "t_max: it is 0.3 with t_min 0.3. Set t_max"),
    "NaN": (lambda rig: {"latent_image": with_nan(rig)}, "latent_image: 1 of its"),
    "channels": (
        lambda rig: {"latent_image": {"samples": picture(rig, 1, 16, 8, 8)}},
        "latent_image: it has 16 channels, latents of model have 4",
    ),
}


@pytest.mark.parametrize("case", BAD_SIGMAS)
def test_bad_input_of_the_sigmas(rig, refusal, sigmas, micro, case):
    given, expected = BAD_SIGMAS[case]
    message = refusal("Stylize SMS Sigmas", lambda: sigmas(micro, **given(rig)))
    assert message.startswith(f"Stylize SMS Sigmas, {expected}")


def test_sigmas_of_a_refused_family_name_it(refusal, sigmas, wiring_model):
    assert "the model family WAN21" in refusal("Stylize SMS Sigmas", lambda: sigmas(wiring_model("wan")))


BAD_SAMPLER = {
    "step but no latent": (lambda rig: {"resume_step": 2}, "resume_step: it is 2 but no resume_latent is connected"),
    "NaN": (lambda rig: {"resume_latent": with_nan(rig), "resume_step": 1}, "resume_latent: 1 of its"),
    "empty": (lambda rig: {"resume_latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "resume_latent: it is empty"),
}


@pytest.mark.parametrize("case", BAD_SAMPLER)
def test_bad_input_of_the_sampler(rig, refusal, sampler, case):
    given, expected = BAD_SAMPLER[case]
    message = refusal("Stylize SMS Sampler", lambda: sampler(**given(rig)))
    assert message.startswith(f"Stylize SMS Sampler, {expected}")


BAD_RUN = {
    # what the sampler or the run is given, what the error must say
    "resume latent of another shape": (
        lambda rig: {"resume_latent": {"samples": picture(rig, 2, 4, 8, 8)}, "resume_step": 1},
        "resume_latent: it is (2, 4, 8, 8), the run's latent is (2, 4, 12, 10)",
    ),
    "nothing left to resume": (
        lambda rig: {"resume_latent": {"samples": picture(rig)}, "resume_step": 4},
        "resume_step: it is 4 of 4 steps",
    ),
    "NaN": (lambda rig: {"latent": with_nan(rig)}, "latent_image: 1 of its"),
    "empty": (lambda rig: {"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent_image: it is empty"),
    "channels": (lambda rig: {"latent": {"samples": picture(rig, 1, 16, 8, 8)}}, "latent_image: it has 16 channels"),
}


@pytest.mark.parametrize("case", BAD_RUN)
def test_bad_input_that_only_the_run_can_see(rig, refusal, by_parts, styled, case):
    given, expected = BAD_RUN[case]
    before = rig.leaks.state(styled)
    message = refusal("Stylize SMS Sampler", lambda: by_parts(styled, **given(rig)))
    assert message.startswith(f"Stylize SMS Sampler, {expected}")
    assert rig.leaks.state(styled) == before


def test_cost_is_said_beforehand(by_parts, styled, caplog):
    with caplog.at_level("INFO"):
        by_parts(styled, fake_score="trained", steps=2)
        by_parts(styled, cfg=1.0)
        by_parts(styled, strength=0.0)
    said = [record.getMessage() for record in caplog.records if "[Stylization]" in record.getMessage()]
    assert len(said) == 3
    assert "SMS: 2 iterations, 8 model rows for the scores" in said[0]
    assert "MiB for a private copy of the model" in said[1]
    assert "SMS: 4 iterations, 4 model rows for the scores" in said[2]


@pytest.mark.parametrize("count", [0, 1])
def test_sigmas_without_a_step_are_refused(rig, refusal, advanced, guider, sampler, styled, count):
    run = lambda: advanced(guider(styled), sampler(), torch.ones(count), {"samples": picture(rig)})  # noqa: E731
    message = refusal("Stylize SMS Guider", run)
    assert message.startswith("Stylize SMS Guider, sigmas: they hold no step. Connect 'Stylize SMS Sigmas'")


def test_other_guiders_are_refused_by_name(rig, stock, refusal, advanced, sigmas, sampler, styled):
    given = rig.runs.pair()
    for kind, guider in (
        ("Guider_Basic", stock.BasicGuider.execute(styled, given["positive"])[0]),
        ("CFGGuider", stock.CFGGuider.execute(styled, given["positive"], given["negative"], 4.5)[0]),
    ):
        run = lambda guider=guider: advanced(guider, sampler(), sigmas(styled), {"samples": picture(rig)})  # noqa: E731
        message = refusal("Stylize SMS Sampler", run)
        assert message.startswith("Stylize SMS Sampler, guider: ")
        assert f"not a {kind}" in message and "'Stylize SMS Guider'" in message


def test_refiner_mask_of_another_aspect_is_refused_by_its_own_name(rig, sampling, refusal, by_parts, styled):
    placed = sampling.StylizeSemanticRefiner.execute(styled, **PLACE, **WINDOW, mask=torch.ones(1, 64, 64))[0]
    message = refusal("Stylize Semantic Refiner", lambda: by_parts(placed))
    assert message.startswith("Stylize Semantic Refiner, mask: it is 64x64 pixels")


def test_trained_fake_score_refuses_quantised_weights(rig, refusal, by_parts, styled):
    network = styled.model.diffusion_model
    network.out[2].weight = torch.nn.Parameter(network.out[2].weight.to(torch.float8_e4m3fn), requires_grad=False)
    message = refusal("Stylize SMS Guider", lambda: by_parts(styled, fake_score="trained"))
    assert "model: " in message and "float8" in message and "'frozen'" in message
