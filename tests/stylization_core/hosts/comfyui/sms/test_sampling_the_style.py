"""An ordinary sampler under the SMS Guider: what acts around guidance acts on the style as on a model of its own."""

from __future__ import annotations

import pytest
import torch


def pre_function(model):
    """Scales the difference of the two predictions before guidance."""
    clone = model.clone()

    def scaled(args):
        cond, uncond = args["conds_out"]
        assert args["conds"][0] is not None and args["cond_scale"] == 4.5
        return [uncond + 0.5 * (cond - uncond), uncond]

    clone.set_model_sampler_pre_cfg_function(scaled)
    return clone


def pre_function_that_asks(model):
    """Asks the model once more, as skip-layer and adaptive guidance do."""
    import comfy.samplers

    clone = model.clone()

    def asked(args):
        cond, uncond = args["conds_out"]
        options = {**args["model_options"], "transformer_options": dict(args["model_options"]["transformer_options"])}
        more = comfy.samplers.calc_cond_batch(
            args["model"], [args["conds"][0]], 0.9 * args["input"], args["sigma"], options
        )
        return [cond + 0.3 * (more[0] - cond), uncond]

    clone.set_model_sampler_pre_cfg_function(asked)
    return clone


def calc_function(model):
    """Asks for one prediction after the other and takes some of the first."""
    import comfy.samplers

    clone = model.clone()

    def calculated(args):
        found = [
            comfy.samplers.calc_cond_batch(args["model"], [cond], args["input"], args["sigma"], args["model_options"])
            for cond in args["conds"]
        ]
        return [0.9 * found[0][0], found[1][0]]

    clone.set_model_sampler_calc_cond_batch_function(calculated)
    return clone


def perturbed(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


def self_attention_guided(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.8, 2.0)[0]


def rescaled(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


NODES = [pre_function, pre_function_that_asks, calc_function, perturbed, self_attention_guided, rescaled]


LEVELS = (1.5, 0.7, 0.0)


@pytest.fixture
def source(rig) -> torch.Tensor:
    return rig.runs.latent(1, 4, 16, 16)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_what_acts_around_guidance_acts_on_the_style(rig, styled, stock, source, node, calls):
    found = rig.ordinary.sample(node(styled), source, guider=rig.runs.guider(node(styled)), sigmas=LEVELS)
    expected = rig.ordinary.sample(node(stock), source, sigmas=LEVELS)
    without = rig.ordinary.sample(stock, source, sigmas=LEVELS)
    assert rig.runs.moved(expected, without) > 0.01
    assert rig.runs.moved(found, expected) < 2e-3 * rig.runs.moved(expected, without) + 1e-4


OF_GUIDANCE_ALONE = [node for node in NODES if node is not self_attention_guided]
"""Self-attention guidance looks into the network that it was put on, which is not asked here."""


@pytest.mark.parametrize("node", OF_GUIDANCE_ALONE, ids=lambda node: node.__name__)
def test_what_acts_around_guidance_of_model_acts_on_a_second_checkpoint(rig, micro, source, node):
    other = rig.micro.unet(seed=1)
    found = rig.ordinary.sample(node(micro), source, guider=rig.runs.guider(node(micro), other), sigmas=LEVELS)
    assert rig.runs.moved(found, rig.ordinary.sample(node(other), source, sigmas=LEVELS)) < 1e-4


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("two", [False, True])
def test_cfg_1_asks_for_one_prediction(rig, styled, micro, source, cfg, two):
    recorded, seen = rig.runs.recording(rig.micro.unet(seed=1) if two else styled)
    guider = rig.runs.guider(micro, recorded, cfg=cfg) if two else rig.runs.guider(recorded, cfg=cfg)
    rig.ordinary.sample(recorded, source, guider=guider, sigmas=LEVELS)
    assert {names for _, names, _ in seen} == {("style",) if cfg == 1 else ("style", "style")}


def test_no_negative_prompt_is_no_guidance(rig, styled, stock, source):
    prompts = {"positive": rig.runs.conditioning(1)}
    found = rig.ordinary.sample(styled, source, guider=rig.runs.guider(styled, conditionings=prompts))
    assert rig.runs.moved(found, rig.ordinary.sample(stock, source, cfg=1.0)) < 1e-3


def test_functions_on_a_second_checkpoint_are_named(rig, micro, source, caplog):
    other = rig.micro.unet(seed=1)
    with caplog.at_level("WARNING"):
        found = rig.ordinary.sample(micro, source, guider=rig.runs.guider(micro, pre_function(other)))
    assert "without effect on style_model" in caplog.text and "scaled" in caplog.text
    assert rig.runs.moved(found, rig.ordinary.sample(other, source)) < 1e-4


def test_options_of_the_models_are_as_they_were(rig, styled, source):
    before = rig.leaks.state(styled)
    rig.ordinary.sample(styled, source, guider=rig.runs.guider(styled))
    assert rig.leaks.state(styled) == before
