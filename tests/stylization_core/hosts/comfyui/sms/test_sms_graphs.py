"""Whole SMS runs through ComfyUI's guider: graphs that come to the same, and other nodes and samplers."""

from __future__ import annotations

import pytest
import torch

# equal graphs


def test_stock_lora_loader_graph_equals_the_style_lora_graph(rig, micro, styled, path):
    source = rig.runs.latent()
    ours = rig.runs.sms(styled, source)
    stock = rig.runs.sms(micro, source, rig.loras.weight_patched(micro, path, 0.8))
    assert torch.equal(ours, stock)
    assert rig.runs.moved(ours, source) > 0.05


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_scores_are_comfyuis_own_guided_predictions(rig, micro, styled, path, monkeypatch, cfg):
    """Style from the weight-patched, base from the plain model, each with ordinary guidance at the level drawn."""
    kind, seen = rig.sms_guider.StyleMatchingGuider, []
    original = kind.score_pair

    def recorded(guider, x, sigma, *others):
        seen.append((x.clone(), sigma, original(guider, x, sigma, *others)))
        return seen[-1][2]

    monkeypatch.setattr(kind, "score_pair", recorded)
    rig.runs.sms(styled, rig.runs.latent(), cfg=cfg, steps=2)
    assert len(seen) == 2
    for x, sigma, found in seen:
        for model, guided in zip((rig.loras.weight_patched(micro, path, 0.8), micro), found, strict=True):
            parts = rig.runs.plain(model, rig.runs.pair(), x, sigma)
            expected = parts["negative"] + cfg * (parts["positive"] - parts["negative"])
            assert rig.runs.moved(guided, expected) < 1e-4 * rig.runs.moved(*found)


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_second_checkpoint_equals_the_gate(rig, micro, styled, path, cfg):
    """The same base loaded twice, the second one weight-patched: the style is then a model of its own."""
    source = rig.runs.latent()
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    gate, two = rig.runs.sms(styled, source, cfg=cfg), rig.runs.sms(micro, source, second, cfg=cfg)
    # Adam divides the difference of two predictions by its own size, so rounding of the models grows in the latent
    assert rig.runs.moved(gate, two) < 1e-3 * rig.runs.moved(gate, source)


def test_style_lora_on_a_second_checkpoint_acts_there(rig, micro, styled, path):
    other, source = rig.micro.unet(), rig.runs.latent()
    second = rig.style_branch.attach(other, rig.lora_files.load_style(path, other, 0.8))
    gate, two = rig.runs.sms(styled, source), rig.runs.sms(micro, source, second)
    assert rig.runs.moved(gate, two) < 1e-3 * rig.runs.moved(gate, source)
    assert rig.leaks.network(other)["hooks"] == []


def test_base_and_style_with_loras_of_their_own_equal_two_checkpoints(rig, micro, path, tmp_path):
    other = rig.loras.saved(rig.loras.full(micro), tmp_path / "full.safetensors")
    base, style = rig.loras.weight_patched(micro, path, 0.8), rig.loras.weight_patched(micro, other, 0.5)
    second = rig.loras.weight_patched(rig.micro.unet(), other, 0.5)
    source = rig.runs.latent()
    lifted, two = rig.runs.sms(base, source, style), rig.runs.sms(base, source, second)
    assert rig.runs.moved(lifted, two) < 1e-3 * rig.runs.moved(lifted, source)


def test_split_calls_equal_batched_calls(rig, styled, monkeypatch):
    source = rig.runs.latent()
    batched = rig.runs.sms(styled, source, relevance_floor=0.1)
    rig.runs.split_calls(monkeypatch, styled)
    split = rig.runs.sms(styled, source, relevance_floor=0.1)
    assert rig.runs.moved(batched, split) < 1e-3 * rig.runs.moved(batched, source)


def test_pictures_of_a_batch_do_not_see_each_other_beyond_the_noise(rig, styled):
    """Adding a picture behind the first one leaves the first one's noise, and so its result, alone."""
    source = rig.runs.latent(1, 4, 12, 10).expand(3, 4, 12, 10).clone()
    other = source.clone()
    other[1:] *= -0.5
    one, two = rig.runs.sms(styled, source)[0], rig.runs.sms(styled, other)[0]
    assert rig.runs.moved(one, two) < 1e-3 * rig.runs.moved(one, source[0])


# with other nodes and samplers


def test_ordinary_sampler_under_the_guider_samples_the_style(rig, micro, styled, path):
    import comfy.samplers

    sigmas, noise = torch.tensor([2.0, 1.0, 0.0]), rig.runs.drawn(2, 4, 8, 8)
    stock = comfy.samplers.CFGGuider(rig.loras.weight_patched(micro, path, 0.8))
    stock.inner_set_conds(rig.runs.pair())
    stock.set_cfg(4.5)
    euler, empty = comfy.samplers.sampler_object("euler"), torch.zeros_like(noise)
    with torch.inference_mode():
        results = [guider.sample(noise, empty, euler, sigmas, seed=1) for guider in (rig.runs.guider(styled), stock)]
    assert rig.runs.moved(*results) < 1e-4 * results[1].abs().max()


def test_other_guiders_are_refused_by_name(rig, micro):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(micro)
    guider.inner_set_conds(rig.runs.pair())
    source = rig.runs.latent()
    with pytest.raises(ValueError, match="not a CFGGuider.*Stylize SMS Guider"), torch.inference_mode():
        guider.sample(source, source, rig.sms_sampler.StyleMatchingSampler(), torch.tensor([1.0, 0.0]), seed=0)


def test_perturbed_attention_guidance_on_the_model_does_not_break(rig, styled):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    guided = PerturbedAttentionGuidance.execute(styled, 3.0)[0]
    source = rig.runs.latent()
    assert torch.equal(rig.runs.sms(guided, source), rig.runs.sms(styled, source))


def test_plain_sampling_of_a_model_that_carries_a_style_is_the_plain_model(rig, micro, styled):
    x = rig.runs.latent()
    one, two = rig.runs.plain(styled, rig.runs.pair(), x), rig.runs.plain(micro, rig.runs.pair(), x)
    assert all(torch.equal(one[key], two[key]) for key in one)


# what other nodes put around guidance


def foreign(rig, kind: str, model):
    from comfy_extras.nodes_model_advanced import RescaleCFG
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    if kind == "pag":
        return PerturbedAttentionGuidance.execute(model, 3.0)[0]
    if kind == "rescale":
        return RescaleCFG().patch(model, 0.7)[0]
    clone = model.clone()

    def test_function(args):
        return args["conds_out"]

    def test_wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    if kind == "pre":
        clone.set_model_sampler_pre_cfg_function(test_function)
    elif kind == "wrapper":
        clone.add_wrapper(rig.WrappersMP.PREDICT_NOISE, test_wrapper)
    else:
        clone.add_wrapper_with_key(rig.WrappersMP.PREDICT_NOISE, "easycache", test_wrapper)
    return clone


FOREIGN = {
    "pag": "comfy_extras.nodes_pag.PerturbedAttentionGuidance.execute.<locals>.post_cfg_function",
    "rescale": "comfy_extras.nodes_model_advanced.RescaleCFG.patch.<locals>.rescale_cfg",
    "pre": "foreign.<locals>.test_function",
    "wrapper": "foreign.<locals>.test_wrapper",
    "keyed wrapper": "have no effect in it: easycache",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_functions_around_guidance_are_named_in_a_warning(rig, styled, caplog, kind):
    source = rig.runs.latent(1, 4, 4, 4)
    with caplog.at_level("WARNING"):
        found = rig.runs.sms(foreign(rig, kind, styled), source, steps=2)
    (message,) = [record.getMessage() for record in caplog.records if "have no effect in it" in record.getMessage()]
    assert FOREIGN[kind] in message
    assert torch.equal(found, rig.runs.sms(styled, source, steps=2))


def test_nothing_is_named_where_only_our_own_nodes_are(rig, styled, caplog):
    hold = rig.attachments.attach_once(
        styled, rig.sms_settings.SPECTRUM, rig.sms_settings.SpectrumHold(), rig.ordinary.REGULARIZER
    )
    with caplog.at_level("WARNING"):
        for model in (styled, rig.guidance_run.acting(hold)):
            rig.runs.sms(model, rig.runs.latent(1, 4, 4, 4), steps=2)
    assert "have no effect" not in caplog.text
