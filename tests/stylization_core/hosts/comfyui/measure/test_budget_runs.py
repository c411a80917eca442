"""The dial over whole runs: what a setting comes to, and that the user's guider stays as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from stylization.stylization_core.rulers.images import as_encoded

FACTOR = 0.4


def euler():
    import comfy.samplers

    return comfy.samplers.sampler_object("euler")


def guidance(rig, model, strength, edit=True):
    return rig.ordinary.guided(model, strength=strength, edit=edit)


def sharing(rig, model, strength):
    """The dial multiplies the weight and AdaIN's strengths."""
    how = {"weight": strength, "adain_query": strength, "adain_key": strength}
    return rig.sharing.shared(model, rig.sharing.described(), **how)


def in_batch(rig, model, strength):
    how = {"weight": strength, "adain_query": strength, "adain_key": strength}
    return rig.sharing.in_batch(model, **how)


def injection(rig, model, strength):
    return rig.effects.injecting(model, rig.sharing.described(draw=44), strength=strength)


def regions(rig, model, strength):
    return rig.effects.regional(model, strength=strength, adaptivity=2.0)


def chained(*nodes):
    def run(rig, model, strength):
        for node in nodes:
            model = node(rig, model, strength)
        return model

    return run


OPERATORS = {
    "guidance, edit": guidance,
    "guidance, add": lambda rig, model, strength: guidance(rig, model, strength, edit=False),
    "shared attention": sharing,
    "shared batch": in_batch,
    "holistic": injection,
    "regions": regions,
    "guidance and sharing": chained(guidance, sharing),
    "all": chained(lambda *given: guidance(*given, edit=False), sharing, injection, regions),
}


@pytest.fixture(params=list(OPERATORS))
def operated(request, rig, styled):
    """``operated(strength)``: a MODEL with operators of that strength."""
    return lambda strength: OPERATORS[request.param](rig, styled, strength)


def run(rig, guider, **given):
    """Two steps on two small pictures."""
    return rig.ordinary.sample(None, rig.runs.latent(2, 4, 8, 6), guider=guider, sigmas=(1.5, 0.5, 0.0), **given)


def test_a_setting_is_the_nodes_strength_multiplied(rig, operated):
    """And the user's guider and MODEL stay as they are."""
    model = operated(1.0)
    guider = rig.ordinary.guider_of(model)
    before, kept = rig.leaks.state(model), {name: id(one) for name, one in vars(guider).items()}
    turned = run(rig, rig.budget.dialled(guider, FACTOR))
    assert rig.leaks.state(model) == before
    assert {name: id(one) for name, one in vars(guider).items()} == kept
    assert rig.attachments.dial(guider.model_options) == 1
    assert rig.runs.moved(turned, run(rig, rig.ordinary.guider_of(operated(FACTOR)))) < 1e-5
    assert rig.runs.moved(turned, run(rig, guider)) > 1e-3


def test_setting_zero_is_the_unpatched_run_bit_for_bit(rig, styled, operated):
    turned = run(rig, rig.budget.dialled(rig.ordinary.guider_of(operated(1.0)), 0.0))
    assert torch.equal(turned, run(rig, rig.ordinary.guider_of(styled)))


def test_setting_one_is_the_guiders_own_run_bit_for_bit(rig, styled):
    guider = rig.ordinary.guider_of(chained(guidance, injection)(rig, styled, 1.0))
    assert torch.equal(run(rig, rig.budget.dialled(guider, 1.0)), run(rig, guider))


def matched(rig, guider, strength=1.0):
    source = rig.runs.latent()
    sampler = rig.sms_sampler.StyleMatchingSampler(strength=strength)
    with torch.inference_mode():
        bounds = rig.runs.bounds(guider.model_patcher, 2, source)
        return guider.sample(torch.zeros_like(source), source, sampler, bounds, seed=3)


@pytest.mark.parametrize("second", [False, True])
def test_style_matching_score_follows_the_dial(rig, micro, styled, second):
    """Also with a second checkpoint, whose predictions it compares."""
    given = (micro, rig.micro.unet(seed=9)) if second else (styled,)
    guider = rig.runs.guider(*given)
    turned = matched(rig, rig.budget.dialled(guider, FACTOR))
    assert torch.equal(turned, matched(rig, rig.runs.guider(*given), FACTOR))
    assert rig.runs.moved(turned, matched(rig, guider)) > 1e-3
    assert torch.equal(matched(rig, rig.budget.dialled(guider, 0.0)), rig.runs.latent())
    assert rig.attachments.dial(guider.model_options) == 1


def test_guiders_of_other_nodes_follow_the_dial(rig, micro):
    from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG

    prompts = [rig.runs.conditioning(seed) for seed in (1, 2, 3)]
    made = {
        Guider_Basic: lambda model: rig.sharing.guider(Guider_Basic, model, prompts[0], cfg=1.0),
        Guider_DualCFG: lambda model: rig.sharing.guider(Guider_DualCFG, model, *prompts, cfg1=3.0, cfg2=2.0),
    }
    for guider in made.values():
        turned = run(rig, rig.budget.dialled(guider(injection(rig, micro, 1.0)), FACTOR))
        assert rig.runs.moved(turned, run(rig, guider(injection(rig, micro, FACTOR)))) < 1e-5


def test_a_guider_with_options_of_its_own_keeps_them(rig, micro):
    guider = rig.ordinary.guider_of(injection(rig, micro, 1.0))
    guider.model_options = {**guider.model_options, "its own": 1}
    turned = rig.budget.dialled(guider, FACTOR)
    assert turned.model_options["its own"] == 1 and rig.attachments.dial(turned.model_options) == FACTOR
    assert rig.attachments.dial(guider.model_options) == 1
    assert rig.runs.moved(run(rig, turned), run(rig, rig.ordinary.guider_of(injection(rig, micro, FACTOR)))) < 1e-5


def test_a_guider_around_a_guider_is_turned_inside_too(rig, micro):
    import comfy.samplers

    class Around(comfy.samplers.CFGGuider):
        def __init__(self, inner):
            super().__init__(inner.model_patcher)
            self.inner = inner

    inner = rig.ordinary.guider_of(injection(rig, micro, 1.0))
    turned = rig.budget.dialled(Around(inner), FACTOR)
    assert rig.attachments.dial(turned.inner.model_options) == rig.attachments.dial(turned.model_options) == FACTOR
    assert rig.attachments.dial(inner.model_options) == 1


def test_a_guider_that_keeps_its_model_elsewhere_is_refused_by_name(rig):
    class Foreign:
        model = None

    with pytest.raises(ValueError, match=r"guider: a Foreign keeps its MODEL.*CFGGuider"):
        rig.budget.dialled(Foreign(), 1.0)


def test_what_the_dial_turns_is_found_and_a_model_without_any_is_refused(rig, micro, styled):
    import comfy.samplers

    class Around(comfy.samplers.CFGGuider):
        def __init__(self, inner):
            super().__init__(micro)
            self.inner = inner

    matching = rig.sms_sampler.StyleMatchingSampler()
    for key, node in OPERATORS.items():
        guider = rig.ordinary.guider_of(node(rig, styled, 1.0))
        assert rig.budget.turns(guider, euler()) and rig.budget.turns(Around(guider), euler()), key
    assert rig.budget.turns(rig.runs.guider(styled), matching)
    held = rig.ordinary.held(styled, hold=0.5)
    for guider, sampler in (
        (rig.ordinary.guider_of(micro), euler()),
        (rig.ordinary.guider_of(held), euler()),  # only keeps content
        (rig.runs.guider(styled), euler()),  # samples the style, at no strength
    ):
        with pytest.raises(ValueError, match="nothing on it stylizes by a strength.*Stylize SMS Guidance"):
            rig.budget.refuse_idle(guider, sampler, "model")


@pytest.mark.parametrize(("steps", "expected"), [(0, 11), (10, 11), (99, 11), (1, 2), (4, 5), (7, 8)])
def test_thinned_levels_keep_the_first_and_the_last(rig, steps, expected):
    sigmas = torch.arange(10.0, -1.0, -1.0)
    found = rig.budget.thinned(sigmas, steps)
    assert len(found) == expected and found[0] == 10 and found[-1] == 0
    assert (found.diff() < 0).all() and all(level in sigmas for level in found)
    assert len(found.diff().unique()) <= 2  # even as far as whole steps allow


class Noise:
    def __init__(self, shape):
        self.seed, self.asked, self.shape = 3, 0, shape

    def generate_noise(self, latent):
        self.asked += 1
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(12))


class Vae:
    def decode(self, samples):
        return samples.movedim(1, -1)[..., :3].sigmoid()


def runs_of(rig, guider, latent, **given):
    noise = Noise(tuple(latent["samples"].shape))
    sampler = euler()
    runs = rig.budget.Runs(guider, sampler, noise, latent, Vae(), **given)
    runs.expect(8)
    return runs, noise


def test_runs_are_made_once_with_one_noise_and_respect_the_noise_mask(rig, micro):
    mask = torch.zeros(1, 1, 8, 6)
    mask[..., :3] = 1
    source, sigmas = rig.runs.latent(2, 4, 8, 6), torch.tensor([1.5, 0.5, 0.0])
    guider = rig.ordinary.guider_of(injection(rig, micro, 1.0))
    runs, noise = runs_of(rig, guider, {"samples": source, "noise_mask": mask})
    with torch.inference_mode():
        samples, pictures = runs(FACTOR, sigmas)
        calls = runs.calls
        again, _ = runs(FACTOR, sigmas)
        assert torch.equal(samples, again) and runs.calls == calls > 0 and noise.asked == 1
        other, _ = runs(1.0, sigmas)
    assert runs.calls > calls and rig.runs.moved(samples, other) > 1e-3
    expected = run(rig, rig.budget.dialled(guider, FACTOR), denoise_mask=mask)
    assert torch.equal(samples, expected) and rig.runs.moved(samples[..., 3:], source[..., 3:]) < 1e-4
    assert torch.equal(pictures, Vae().decode(samples))


def test_progress_goes_over_all_runs(rig, micro, monkeypatch):
    import comfy.utils

    told = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: told.append((value, total))
    )
    runs, _ = runs_of(rig, rig.ordinary.guider_of(injection(rig, micro, 1.0)), {"samples": rig.runs.latent()})
    with torch.inference_mode():
        for factor in (0.0, 1.0):
            runs(factor, torch.tensor(rig.ordinary.SIGMAS))
    values = [value for value, total in told if total == 8]
    assert len(values) == len(told) and values == sorted(values) and values[0] == 1 and values[-1] == 8


def test_an_interrupt_passes(rig, micro, monkeypatch):
    model = injection(rig, micro, 1.0)
    runs, _ = runs_of(rig, rig.ordinary.guider_of(model), {"samples": rig.runs.latent()})
    rig.model_management.interrupt_current_processing(True)
    with pytest.raises(rig.model_management.InterruptProcessingException):
        runs(1.0, torch.tensor(rig.ordinary.SIGMAS))
    rig.model_management.interrupt_current_processing(False)


def test_pictures_are_cropped_as_vae_encode_does(rig):
    import comfy.sd

    vae = comfy.sd.VAE.__new__(comfy.sd.VAE)
    vae.crop_input, vae.downscale_ratio, vae.output_channels = True, 8, 3
    pixels = torch.rand(1, 29, 38, 3)
    assert torch.equal(as_encoded(pixels, (24, 32)), vae.vae_encode_crop_pixels(pixels))
    assert torch.equal(as_encoded(pixels[..., 0], (24, 32)), vae.vae_encode_crop_pixels(pixels)[..., 0])
    assert as_encoded(pixels, (24, 16)).shape[2] == 38  # another size stays for the message


def test_models_of_the_runs_go_with_them(rig, styled):
    """At once and without the garbage collector, so that ComfyUI goes back to the user's MODEL in its list."""
    seen, guider = [], rig.ordinary.guider_of(chained(guidance, sharing)(rig, styled, 1.0))
    original = rig.budget.at_dial
    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():

            def noted(*given):
                made = original(*given)
                seen.append(weakref.ref(made))
                return made

            patch.setattr(rig.budget, "at_dial", noted)
            runs, _ = runs_of(rig, guider, {"samples": rig.runs.latent(1, 4, 8, 6)})
            runs(FACTOR, torch.tensor([0.5, 0.0]))
            runs(0.0, torch.tensor([0.5, 0.0]))
        assert [one() for one in seen] == [None, None]
    finally:
        gc.enable()
