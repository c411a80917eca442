"""Networks and prompts that give NaN: maps, refiner and score say so, and give no map, picture or number."""

from __future__ import annotations

import pytest
import torch


def broken(rig) -> list:
    """A prompt of which one value is no number."""
    prompt = rig.runs.conditioning(7)
    prompt[0][0] = prompt[0][0].clone()
    prompt[0][0][0, 0, 0] = float("nan")
    return prompt


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught, torch.inference_mode():
        call()
    assert type(caught.value).__name__ == "StylizationError"
    return str(caught.value)


@pytest.mark.parametrize("which", ["edit", "empty"])
def test_relevance_map(rig, micro, which):
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8), which: broken(rig)}
    sampler, source = rig.relevance_map.RelevanceSampler(), rig.runs.latent()
    message = refusal(lambda: rig.relevance_map.relevance_mask(micro, source, sampler, seed=3, **prompts))
    assert (
        message.startswith(f"{which} prompt of the relevance map, the model's answer at sigma ")
        and "are NaN or infinite" in message
    )
    assert sampler.map is None


@pytest.mark.parametrize("live", [False, True])
def test_refiner(rig, micro, live):
    made = rig.ordinary.refined(micro, edit=broken(rig), empty=rig.runs.conditioning(8), live=live)
    message = refusal(lambda: rig.ordinary.sample(made, rig.runs.latent()))
    said = "edit and empty: the model's answers" if live else "edit prompt of the relevance map, the model's answer at"
    assert message.startswith(f"Stylize Semantic Refiner, {said}")


def test_style_score(rig, styled):
    pair = {**rig.runs.pair(), "positive": broken(rig)}
    guider = rig.runs.guider(styled, conditionings=pair)
    message = refusal(lambda: rig.score_ruler.style_scores(guider, rig.runs.latent(), 3))
    assert message.startswith("model, its prediction with the style at sigma ") and "are NaN or infinite" in message


@pytest.mark.parametrize("edit", [True, False])
def test_guidance(rig, styled, edit):
    """In a sampler the prediction is looked at once, when the run is over: a look at each step would wait for it."""
    pair = {**rig.runs.pair(), "positive": broken(rig)}
    message = refusal(
        lambda: rig.ordinary.sample(rig.ordinary.guided(styled, edit=edit), rig.runs.latent(), conditionings=pair)
    )
    assert message.startswith("Stylize SMS Guidance, model: the style's or the base's prediction")
