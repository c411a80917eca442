"""The style score of given pictures, against predictions of the plain models."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.randomness import stream
from stylization.stylization_core.sms.schedule import vp_sigma

LEVELS = (500, 150)


def scored(rig, guider, samples, seed: int = 3, timesteps=LEVELS, draws: int = 2, callback=None) -> torch.Tensor:
    with torch.inference_mode():
        return rig.score_ruler.style_scores(guider, samples, seed, timesteps, draws, callback)


def of_strength(rig, micro, path, strength: float):
    return rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, strength))


def by_plain_models(rig, base, style, samples, cfg, conditionings, flow: bool = False):
    """Mean squares of the two models' guided predictions apart, over noises and elements of each picture."""
    x, draws, rows = rig.ordinary.in_scale(base, samples), stream(3, "score.ruler"), []
    for timestep in LEVELS:
        ratio = vp_sigma(timestep)
        sigma = ratio / (1 + ratio) if flow else ratio
        squares = []
        for _ in range(2):
            noise = torch.randn(x.shape[1:], generator=draws).expand_as(x)
            noised = (1 - sigma) * x + sigma * noise if flow else x + sigma * noise
            two = [rig.ordinary.own_estimate(one, noised, sigma, cfg, conditionings) for one in (style, base)]
            squares.append(((two[0] - two[1]) / ratio).square().mean((1, 2, 3)))
        rows.append(torch.stack(squares).mean(0).sqrt())
    return torch.stack(rows).double()


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_score_is_the_root_mean_square_of_the_noise_predictions_apart(rig, micro, styled, stock, calls, cfg):
    source, conditionings = rig.runs.latent(), rig.runs.pair()
    found = scored(rig, rig.runs.guider(styled, cfg=cfg), source)
    expected = by_plain_models(rig, micro, stock, source, cfg, conditionings)
    assert found.shape == (2, 2) and found.min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_levels_of_a_flow_model_go_by_signal_to_noise(rig, tmp_path):
    flux, conditionings, source = rig.micro.flux(), rig.runs.pair(64, 32), rig.runs.latent(1, 16, 8, 8)
    path = rig.loras.saved(rig.loras.kohya(flux), tmp_path / "flux.safetensors")
    found = scored(rig, rig.runs.guider(of_strength(rig, flux, path, 0.8), None, conditionings, cfg=1.0), source)
    stock = rig.loras.weight_patched(flux, path, 0.8)
    expected = by_plain_models(rig, flux, stock, source, 1.0, conditionings, flow=True)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_second_checkpoint_scores_as_the_lora(rig, micro, styled, path):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    found = scored(rig, rig.runs.guider(micro, second), rig.runs.latent())
    torch.testing.assert_close(found, scored(rig, rig.runs.guider(styled), rig.runs.latent()), rtol=2e-3, atol=0)


def test_style_of_strength_zero_scores_nothing_at_all(rig, micro, path):
    styled = of_strength(rig, micro, path, 0.0)
    source = rig.style_source.StyleSource(rig.families.detect(micro), branch=rig.style_branch.attached(styled))
    guider = rig.sms_guider.StyleMatchingGuider(styled, source)
    guider.inner_set_conds(rig.runs.pair())
    guider.set_cfg(4.5)
    assert torch.equal(scored(rig, guider, rig.runs.latent()), torch.zeros(2, 2, dtype=torch.float64))


def test_a_weak_style_scores_in_proportion(rig, micro, path):
    source = rig.runs.latent()
    one, two = (scored(rig, rig.runs.guider(of_strength(rig, micro, path, s)), source) for s in (0.01, 0.02))
    torch.testing.assert_close(two / one, torch.full_like(one, 2.0), rtol=0.05, atol=0)


def test_a_batch_scores_as_its_pictures_alone(rig, styled):
    source, guider = rig.runs.latent(3, 4, 12, 10), rig.runs.guider(styled)
    alone = torch.cat([scored(rig, guider, source[[row]]) for row in range(3)], 1)
    torch.testing.assert_close(scored(rig, guider, source), alone, rtol=1e-4, atol=0)
    assert not torch.isclose(alone[:, 0], alone[:, 1], rtol=1e-3).any()


def test_seed_decides_the_noise_and_nothing_else_does(rig, styled):
    source, guider = rig.runs.latent(), rig.runs.guider(styled)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = scored(rig, guider, source)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(scored(rig, guider, source), first)
    assert not torch.equal(scored(rig, guider, source, seed=4), first)


def test_each_question_is_one_pair_and_is_shown(rig, styled):
    recorded, calls = rig.runs.recording(styled)
    seen: list[tuple] = []
    guider = rig.runs.guider(recorded)
    scored(rig, guider, rig.runs.latent(), callback=lambda step, x0, x, total: seen.append((step, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [(sorted(names), rows) for _, names, rows in calls] == [(["base", "base", "style", "style"], 8)] * 4


def test_what_acts_in_sampling_steps_leaves_the_score_alone(rig, styled):
    """Also the dial, which is for runs."""
    source, mask = rig.runs.latent(), torch.ones(1, 96, 80)
    plain = scored(rig, rig.runs.guider(styled), source)
    made = rig.ordinary.protected(rig.ordinary.held(rig.ordinary.refined(styled, mask=mask)), mask)
    for model in (made, rig.attachments.at_dial(styled, 0.0), rig.attachments.at_dial(styled, 0.3)):
        assert torch.equal(scored(rig, rig.runs.guider(model), source), plain)


def test_controlnet_with_a_window_acts_at_its_share_of_the_run(rig, comfy, wiring_model, wiring_files, tmp_path):
    """At timestep 450 a tenth of SMS is done, at 50 nine tenths."""
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    model, known = wiring_model("sd15"), FAMILIES["sd15"]
    path = rig.loras.saved(rig.loras.kohya(model), tmp_path / "sd15.safetensors")
    styled, pair = of_strength(rig, model, path, 0.8), rig.runs.pair(known.width, known.pooled)

    def score(window):
        control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
        control = control.set_cond_hint(
            torch.rand(1, 3, 96, 80, generator=torch.Generator().manual_seed(1)), 1.0, window
        )
        prompts = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in pair.items()}
        guider = rig.runs.guider(styled, None, prompts if window else pair, cfg=1.0)
        return scored(rig, guider, rig.runs.latent(1, 4, 12, 10), timesteps=(450, 50), draws=1)[:, 0]

    none, whole, early = score(()), score((0.0, 1.0)), score((0.0, 0.5))
    assert not torch.isclose(whole, none, rtol=1e-4).any()
    assert torch.equal(early, torch.stack([whole[0], none[1]]))


@pytest.mark.parametrize("ending", ["success", "exception", "interrupt"])
@pytest.mark.parametrize("two", [False, True])
def test_nothing_is_left_on_the_model(rig, micro, styled, path, two, ending):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8) if two else None
    model, source = micro if two else styled, rig.runs.latent()
    expected = scored(rig, rig.runs.guider(model, second), source)
    kept, before = source.clone(), rig.leaks.state(model)
    if ending == "success":
        scored(rig, rig.runs.guider(model, second), source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            scored(rig, rig.runs.guider(model, second), source, callback=rig.endings.interrupting_at(1))
    else:
        with pytest.raises(ZeroDivisionError):
            scored(rig, rig.runs.guider(rig.endings.failing_after(model, 10), second), source)
    assert rig.leaks.state(model) == before and torch.equal(source, kept)
    assert all(one.model.current_patcher is None for one in (model, second) if one is not None)
    assert torch.equal(scored(rig, rig.runs.guider(model, second), source), expected)
