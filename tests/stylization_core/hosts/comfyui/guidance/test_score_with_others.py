"""Score guidance beside other guidance, wrappers, guiders, areas, masks and ControlNets."""

from __future__ import annotations

import pytest
import torch


def pag(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


def sag(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.5, 2.0)[0]


def rescaled(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


@pytest.mark.parametrize("other", [pag, sag, rescaled])
def test_score_is_added_to_what_other_guidance_makes(rig, micro, styled, stock, other):
    source = rig.runs.latent()
    with_other = rig.ordinary.one_step(other(styled), source)
    assert rig.runs.moved(with_other, rig.ordinary.one_step(styled, source)) > 1e-3
    x = rig.ordinary.in_scale(micro, source) + 0.7 * rig.ordinary.unit_noise(source)
    added = rig.ordinary.score(micro, stock, x, 0.7)
    for made in (rig.ordinary.guided(other(styled), edit=False), other(rig.ordinary.guided(styled, edit=False))):
        assert rig.runs.moved(rig.ordinary.one_step(made, source), with_other + added) < 1e-4 * added.abs().max()


@pytest.mark.parametrize("other", [pag, sag, rescaled])
def test_edit_follows_the_score_alone_whatever_other_guidance_makes(rig, styled, other):
    source = rig.runs.latent()
    expected = rig.ordinary.sample(rig.ordinary.guided(styled), source)
    for made in (rig.ordinary.guided(other(styled)), other(rig.ordinary.guided(styled))):
        recorded, rows = rig.runs.recording(made)
        assert rig.runs.moved(rig.ordinary.sample(recorded, source), expected) < 1e-3 * rig.runs.moved(expected, source)
        assert sum(count for *_, count in rows) == 4 * 2 * source.shape[0]


@pytest.mark.parametrize("edit", [True, False])
def test_edit_names_the_guidance_that_it_replaces(rig, styled, caplog, edit):
    with caplog.at_level("WARNING"):
        rig.ordinary.sample(rig.ordinary.guided(rescaled(styled), edit=edit), rig.runs.latent())
    named = [record.getMessage() for record in caplog.records if "mode edit" in record.getMessage()]
    assert len(named) == (1 if edit else 0)
    assert all("RescaleCFG" in message for message in named)


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
    source = rig.runs.latent()
    found, rows = rig.runs.recording(rig.ordinary.guided(asking, edit=False))
    assert torch.equal(
        rig.ordinary.sample(found, source), rig.ordinary.sample(rig.ordinary.guided(styled, edit=False), source)
    )
    assert [len(names) for _, names, _ in rows] == [3, 0, 0] * 4
    asking.model_options["sampler_calc_cond_batch_function"] = swapped
    found, expected = (rig.ordinary.sample(rig.ordinary.guided(one, edit=False), source) for one in (asking, styled))
    assert rig.runs.moved(found, expected) < 1e-3 * rig.runs.moved(expected, rig.ordinary.sample(styled, source))


def test_other_wrappers_see_the_two_predictions_that_they_expect(rig, styled):
    seen: list[tuple[int, int]] = []

    def note(executor, model, conds, *others):
        found = executor(model, conds, *others)
        seen.append((len(conds), len(found)))
        return found

    for edit in (False, True):
        other = styled.clone()
        other.add_wrapper_with_key(rig.WrappersMP.CALC_COND_BATCH, "test.other", note)
        rig.ordinary.sample(rig.ordinary.guided(other, edit=edit), rig.runs.latent())
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
    source, conditionings = rig.runs.latent(), made(rig)
    x = rig.ordinary.in_scale(micro, source) + 0.7 * rig.ordinary.unit_noise(source)
    added = rig.ordinary.score(micro, stock, x, 0.7, conditionings)
    assert rig.runs.moved(added, rig.ordinary.score(micro, stock, x, 0.7)) > 0.05
    own = rig.ordinary.own_estimate(micro, x, 0.7, conditionings=conditionings)
    add = rig.ordinary.one_step(rig.ordinary.guided(styled, edit=False), source, conditionings=conditionings)
    assert rig.runs.moved(add, own + added) < 1e-4 * added.abs().max()
    edit = rig.ordinary.one_step(rig.ordinary.guided(styled), source, conditionings=conditionings)
    assert rig.runs.moved(edit, rig.ordinary.in_scale(micro, source) + added) < 1e-4 * added.abs().max()


@pytest.mark.parametrize("nested", [False, True])
def test_guider_with_three_prompts_gets_a_row_of_its_own(rig, micro, styled, stock, nested):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    source = rig.runs.latent()

    def made(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(rig.runs.conditioning(1), rig.runs.conditioning(4), rig.runs.conditioning(2))
        guider.set_cfg(3.0, 2.0, nested)
        return guider

    recorded, rows = rig.runs.recording(rig.ordinary.guided(styled, edit=False))
    found = rig.ordinary.one_step(None, source, guider=made(recorded))
    assert [(names, count) for _, names, count in rows] == [((), 6), (("style",), 2)]
    x = rig.ordinary.in_scale(micro, source) + 0.7 * rig.ordinary.unit_noise(source)
    asked = {"positive": rig.runs.conditioning(1 if nested else 4), "negative": rig.runs.conditioning(2)}
    added = (2.0 if nested else 1.0) * rig.ordinary.score(micro, stock, x, 0.7, asked)
    expected = rig.ordinary.one_step(None, source, guider=made(styled)) + added
    assert rig.runs.moved(found, expected) < 1e-4 * added.abs().max()


def test_perp_neg_guider(rig, micro, styled, stock):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    source = rig.runs.latent()

    def made(model):
        guider = Guider_PerpNeg(model)
        guider.set_conds(*(rig.runs.conditioning(seed) for seed in (1, 2, 4)))
        guider.set_cfg(4.5, 1.0)
        return guider

    x = rig.ordinary.in_scale(micro, source) + 0.7 * rig.ordinary.unit_noise(source)
    added = rig.ordinary.score(micro, stock, x, 0.7)
    plain = rig.ordinary.one_step(None, source, guider=made(styled))
    found = rig.ordinary.one_step(None, source, guider=made(rig.ordinary.guided(styled, edit=False)))
    assert rig.runs.moved(found, plain + added) < 1e-4 * added.abs().max()
    content = rig.ordinary.in_scale(micro, source)
    edit = rig.ordinary.one_step(None, source, guider=made(rig.ordinary.guided(styled)))
    assert rig.runs.moved(edit, content + added) < 1e-4 * added.abs().max()


def test_inpaint_mask_keeps_the_rest_and_edits_within(rig, micro, styled, stock):
    source, noise = rig.runs.latent(), rig.ordinary.unit_noise(rig.runs.latent())
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    found = rig.ordinary.sample(rig.ordinary.guided(styled), source, denoise_mask=mask)
    content = z = rig.ordinary.in_scale(micro, source)
    for sigma, following in zip(rig.ordinary.SIGMAS, rig.ordinary.SIGMAS[1:], strict=False):
        x = sigma * noise + mask * z + (1 - mask) * content
        z = z + rig.ordinary.score(micro, stock, x, sigma) * (sigma - following) / sigma
    expected = micro.model.process_latent_out(mask * z + (1 - mask) * content)
    assert rig.runs.moved(found[..., :5], source[..., :5]) < 1e-4
    assert rig.runs.moved(found[..., 5:], source[..., 5:]) > 0.5
    assert rig.runs.moved(found, expected) < 1e-3 * rig.runs.moved(expected, source)


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
    source = rig.runs.latent(1, 4, 8, 8)
    x = rig.ordinary.in_scale(model, source) + 0.7 * rig.ordinary.unit_noise(source)
    style = rig.loras.weight_patched(model, lora, 0.8)
    added, without = (rig.ordinary.score(model, style, x, 0.7, conditionings) for conditionings in (pair, bare))
    found = rig.ordinary.one_step(rig.ordinary.guided(styled, edit=edit), source, conditionings=pair)
    start = (
        rig.ordinary.in_scale(model, source) if edit else rig.ordinary.own_estimate(model, x, 0.7, conditionings=pair)
    )
    assert rig.runs.moved(added, without) > 100 * rig.runs.moved(found, start + added)
    assert rig.runs.moved(found, start + added) < 2e-3 * added.abs().max()


def test_cost_of_guidance_is_said_beforehand(rig, styled, caplog):
    style = rig.style_source.find_style(styled)
    with caplog.at_level("INFO"):
        for edit in (True, False):
            rig.score_guidance.log_guidance(rig.guidance_settings.ScoreGuidance(style, edit=edit))
    edit, add = caplog.messages
    assert "score guidance: 2 model rows" in edit and "score guidance: 3 (2 at CFG 1) model rows" in add
    assert f"{style.branch.nbytes / 2**20:.1f} MiB" in edit
