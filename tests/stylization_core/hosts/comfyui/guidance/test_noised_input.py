"""Runs whose own input is a noised latent: holds take the content that is connected, or say what to connect."""

from __future__ import annotations

import pytest
import torch

MASK = torch.ones(1, 96, 80)


def left() -> torch.Tensor:
    mask = MASK.clone()
    mask[..., 40:] = 0
    return mask


HOLDS = {
    "Stylize Protect Region": lambda rig, model, **given: rig.ordinary.protected(model, left(), **given),
    "Stylize Spectrum Regularizer": lambda rig, model, **given: rig.ordinary.held(model, hold=1.0, **given),
    "Stylize Semantic Refiner": lambda rig, model, **given: rig.ordinary.refined(
        model, mask=1 - left(), floor=0.0, **given
    ),
}


def advanced(rig, model, latent, start: int, end: int, *, add_noise: bool, leave: bool = False) -> torch.Tensor:
    """KSampler (Advanced), 6 steps."""
    from nodes import KSamplerAdvanced

    words = {True: "enable", False: "disable"}
    pair = rig.runs.pair()
    with torch.inference_mode():
        (found,) = KSamplerAdvanced().sample(
            model, words[add_noise], 5, 6, 4.5, "euler", "normal", pair["positive"], pair["negative"],
            {"samples": latent}, start, end, words[leave],
        )  # fmt: skip
    return found["samples"]


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


def split(rig, model, latent, guider=None) -> torch.Tensor:
    """The second part of split sigmas under SamplerCustomAdvanced with DisableNoise."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import DisableNoise, SamplerCustomAdvanced, SplitSigmas

    guider = guider or rig.ordinary.guider_of(model)
    _, low = SplitSigmas.execute(torch.tensor(rig.ordinary.SIGMAS), 2)
    chosen = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        noise = DisableNoise.execute()[0]
        return SamplerCustomAdvanced.execute(noise, guider, chosen, low, {"samples": latent})[0]["samples"]


@pytest.mark.parametrize("way", ["KSampler (Advanced)", "split sigmas", "one of two pictures", "ancestral", "inpaint"])
@pytest.mark.parametrize("name", HOLDS)
def test_a_noised_input_is_not_taken_for_the_content(rig, micro, name, way):
    made, noised = HOLDS[name](rig, micro), rig.runs.latent()
    half = rig.ordinary.unit_noise(noised)
    half[1] = 0
    calls = {
        "KSampler (Advanced)": lambda: advanced(rig, made, noised, 3, 10, add_noise=False),
        "split sigmas": lambda: split(rig, made, noised),
        "one of two pictures": lambda: rig.ordinary.sample(made, noised, noise=half),
        "ancestral": lambda: rig.ordinary.sample(made, noised, noise=half * 0, sampler="euler_ancestral"),
        "inpaint": lambda: rig.ordinary.sample(
            made, noised, noise=half * 0, denoise_mask=torch.ones(1, 1, 12, 10)
        ),
    }  # fmt: skip
    message = refusal(calls[way])
    assert message.startswith(f"{name}, content: the run adds no noise to its input")
    assert message.endswith("Connect VAE Encode of your picture to content.")


@pytest.mark.parametrize("name", HOLDS)
def test_two_samplers_hold_the_connected_picture(rig, micro, name):
    """As a refiner takes over: one sampler leaves its noise, the next adds none."""
    source = rig.runs.latent()
    made = HOLDS[name](rig, micro, content=source)
    halfway = advanced(rig, made, source, 0, 3, add_noise=True, leave=True)
    result = advanced(rig, made, halfway, 3, 10, add_noise=False)
    free = advanced(rig, micro, halfway, 3, 10, add_noise=False)
    if name == "Stylize Spectrum Regularizer":
        result, free, source = (picture.mean((2, 3)) for picture in (result, free, source))
    else:
        result, free, source = (picture[..., :5] for picture in (result, free, source))
    assert rig.runs.moved(result, source) < 1e-3 < 1e-2 < rig.runs.moved(free, source)


@pytest.mark.parametrize("name", HOLDS)
def test_runs_that_add_noise_keep_their_own_input(rig, micro, name):
    """Image to image, and the first of two samplers."""
    source, made = rig.runs.latent(), HOLDS[name](rig, micro)
    assert torch.isfinite(advanced(rig, made, source, 3, 10, add_noise=True)).all()
    assert torch.isfinite(advanced(rig, made, source, 0, 3, add_noise=True, leave=True)).all()


def test_a_run_that_begins_at_sigma_0_begins_at_the_picture(rig, micro):
    """As packs that walk up in noise do; no sampler of ComfyUI's own begins there."""
    source = rig.runs.latent()
    up = torch.tensor([0.0, 0.7])
    seen = []

    class Walk(rig.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *others, **named):
            seen.append(model_wrap(latent_image, latent_image.new_full((2,), 0.7), **extra_args))
            return latent_image

    for model in (micro, HOLDS["Stylize Protect Region"](rig, micro)):
        with torch.inference_mode():
            rig.ordinary.guider_of(model).sample(torch.zeros_like(source), source, Walk(), up, seed=3)
    content = rig.ordinary.in_scale(micro, source)
    assert torch.equal(seen[1][..., :5], content[..., :5]) and not torch.equal(seen[0][..., :5], content[..., :5])


def test_edit_cannot_begin_at_a_noised_latent(rig, styled):
    edit, add = (rig.ordinary.guided(styled, edit=mode) for mode in (True, False))
    noised = rig.runs.latent()
    message = refusal(lambda: advanced(rig, edit, noised, 3, 10, add_noise=False))
    assert message.startswith("Stylize SMS Guidance, latent_image: the run adds no noise to its input")
    assert "set mode to add" in message
    assert torch.isfinite(advanced(rig, add, noised, 3, 10, add_noise=False)).all()


def test_live_map_of_a_run_without_noise_is_asked_about_a_noised_content(rig, micro, monkeypatch):
    """The map compares two answers about the content at a level; without noise it would be of a clean picture."""
    source = rig.runs.latent()
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8), "live": True}
    asked = []
    holds = rig.holds
    ask = holds.ask_pair
    monkeypatch.setattr(holds, "ask_pair", lambda *args: asked.append(args[3].clone()) or ask(*args))
    made = rig.ordinary.refined(micro, content=source, **prompts)
    rig.ordinary.sample(made, source, noise=torch.zeros_like(source), sigmas=rig.ordinary.ONE_STEP)
    (noised,) = asked
    content = rig.ordinary.in_scale(micro, source)
    assert abs((noised - content).std().item() / 0.7 - 1) < 0.1


def test_inverting_a_picture_starts_at_the_picture(rig, micro):
    """An inversion adds no noise either, and its input is clean."""
    made = HOLDS["Stylize Spectrum Regularizer"](rig, micro)
    sampler = rig.inversion.InversionSampler()
    source = rig.runs.latent()
    with torch.inference_mode():
        rig.ordinary.guider_of(made).sample(
            torch.zeros_like(source), source, sampler, torch.tensor(rig.ordinary.SIGMAS), seed=3, disable_pbar=True
        )
    assert torch.isfinite(sampler.trajectory.latents).all()
