"""SMS reads the settings of regularizer and refiner from the MODEL itself."""

from __future__ import annotations

import torch


def test_sms_passes_through_and_reads_the_settings_of_the_model(rig, styled):
    source, mask = rig.runs.latent(), torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    made = rig.ordinary.refined(
        rig.ordinary.held(styled, hold=1.0, weight=3.0, proximal=True, color=0.2), floor=0.2, mask=mask
    )
    recorded, rows = rig.runs.recording(rig.ordinary.guided(made, edit=True))
    found = rig.runs.sms(recorded, source, spectrum=7.0, relevance_floor=0.9)
    assert len(rows) == 4  # no map from the guider's prompts, nothing beside the steps
    expected = by_sampler(rig, styled, source, mask)
    assert torch.equal(found, expected)
    assert rig.runs.moved(found, rig.runs.sms(styled, source)) > 1e-3


def by_sampler(rig, styled, source, mask):
    """The same settings given to the sampler instead of the MODEL."""
    kinds = rig.sms_settings
    sampler = rig.sms_sampler.StyleMatchingSampler(
        spectrum=kinds.SpectrumHold(weight=3.0, proximal=True, color=0.2),
        refinement=kinds.Refinement(floor=0.2, mask=mask),
    )
    with torch.inference_mode():
        sigmas = rig.runs.bounds(styled, 4, source)
        return rig.runs.guider(styled).sample(torch.zeros_like(source), source, sampler, sigmas, seed=3)


def test_prompts_of_a_refiner_on_the_model_make_the_map_of_sms(rig, styled):
    source, edit, empty = rig.runs.latent(), rig.runs.conditioning(7), rig.runs.conditioning(8)
    found = rig.runs.sms(rig.ordinary.refined(styled, floor=0.3, edit=edit, empty=empty), source)
    prompts = {**rig.runs.pair(), "edit": edit, "empty": empty}
    assert torch.equal(found, rig.runs.sms(styled, source, conditionings=prompts, relevance_floor=0.3))
    assert not torch.equal(found, rig.runs.sms(styled, source, relevance_floor=0.3))


def test_relevance_map_of_a_model_with_settings_is_the_plain_models(rig, styled):
    """The map's questions are no sampling steps: no content is needed, no other map is made on the way."""
    source = rig.runs.latent()
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
