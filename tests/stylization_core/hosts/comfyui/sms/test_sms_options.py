"""Options, prompts and terms of whole SMS runs."""

from __future__ import annotations

import pytest
import torch

# options


@pytest.mark.parametrize("shape", [(1, 4, 13, 9), (3, 4, 12, 10), (1, 4, 8, 24), (1, 4, 64, 5)])
def test_any_size_and_batch(rig, styled, shape):
    source = rig.runs.latent(*shape)
    result = rig.runs.sms(styled, source, relevance_floor=0.1, steps=3)
    assert result.shape == source.shape
    assert torch.isfinite(result).all()
    assert rig.runs.moved(result, source) > 0.05


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_rows_of_each_call(rig, styled, cfg):
    recorded, calls = rig.runs.recording(styled)
    rig.runs.sms(recorded, rig.runs.latent(3, 4, 8, 8), cfg=cfg, steps=3)
    assert [rows for _, _, rows in calls] == [3 * (2 if cfg == 1.0 else 4)] * 3


def test_relevance_is_computed_once_before_the_run(rig, styled):
    recorded, calls = rig.runs.recording(styled)
    rig.runs.sms(recorded, rig.runs.latent(), relevance_floor=0.1, steps=3)
    assert [names for _, names, _ in calls[:4]] == [("base", "base")] * 4
    assert len(calls) == 4 + 3


def test_switching_relevance_or_spectrum_leaves_noise_and_levels_alone(rig, styled):
    seen = []
    for settings in ({}, {"spectrum": 0.0}, {"relevance_floor": 0.1}):
        inputs: list[tuple] = []
        recorded = styled.clone()

        def note(executor, x, t, *args, inputs=inputs, **kwargs):
            if x.shape[0] == 8:
                inputs.append((t[0].item(), x[:2].clone()))
            return executor(x, t, *args, **kwargs)

        recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.inputs", note)
        rig.runs.sms(recorded, rig.runs.latent(), **settings)
        seen.append(inputs)
    plain, *others = seen
    for other in others:
        assert [level for level, _ in other] == [level for level, _ in plain]
        # The first two steps see the source itself: step 0 has size 0.
        assert all(torch.equal(one[1], two[1]) for one, two in zip(plain[:2], other[:2], strict=True))


def test_strength_zero_and_dial_zero_return_the_latent_itself(rig, styled):
    source = rig.runs.latent()
    assert rig.runs.sms(styled, source, strength=0.0) is source
    off = styled.clone()
    off.model_options["transformer_options"][rig.attachments.DIAL] = 0.0
    assert rig.runs.sms(off, source) is source


def test_dial_multiplies_the_strength(rig, styled):
    source, half = rig.runs.latent(), styled.clone()
    half.model_options["transformer_options"][rig.attachments.DIAL] = 0.5
    assert torch.equal(rig.runs.sms(half, source), rig.runs.sms(styled, source, strength=0.5))


def test_mask_protects_and_frees(rig, styled):
    source = rig.runs.latent()
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    result = rig.runs.sms(styled, source, mask=mask, spectrum=0.0)
    assert torch.equal(result[..., :5], source[..., :5])
    assert rig.runs.moved(result[..., 5:], source[..., 5:]) > 0.05


def test_same_seed_same_picture(rig, styled):
    source = rig.runs.latent()
    torch.manual_seed(1)
    first = rig.runs.sms(styled, source, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, rig.runs.sms(styled, source, seed=5))
    assert not torch.equal(first, rig.runs.sms(styled, source, seed=6))


def test_global_generator_is_not_moved(rig, styled):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    rig.runs.sms(styled, rig.runs.latent(), relevance_floor=0.1)
    assert torch.equal(state, torch.get_rng_state())


def test_v_prediction_model(rig, tmp_path):
    patcher = rig.micro.unet(prediction="V_PREDICTION")
    path = rig.loras.saved(rig.loras.kohya(patcher), tmp_path / "v.safetensors")
    styled = rig.style_branch.attach(patcher, rig.lora_files.load_style(path, patcher, 0.8))
    second = rig.loras.weight_patched(rig.micro.unet(prediction="V_PREDICTION"), path, 0.8)
    source = rig.runs.latent()
    gate = rig.runs.sms(styled, source)
    assert rig.runs.moved(gate, rig.runs.sms(patcher, source, second)) < 1e-3 * rig.runs.moved(gate, source)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_flow_model_sees_levels_of_the_flow(rig, wiring_model, wiring_files, tmp_path, family):
    if family == "flux":
        patcher = rig.micro.flux()
        path = rig.loras.saved(rig.loras.kohya(patcher), tmp_path / "flux.safetensors")
    else:
        patcher = wiring_model("sd3")
        path = str(wiring_files.path("wiring_lora_sd3_kohya.safetensors"))
    styled = rig.style_branch.attach(patcher, rig.lora_files.load_style(path, patcher, 0.8))
    levels: list[float] = []

    def note(executor, x, t, *args, **kwargs):
        levels.append(t[0].item())
        return executor(x, t, *args, **kwargs)

    styled.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.levels", note)
    source = rig.runs.latent(2, 16, 13, 10)
    result = rig.runs.sms(styled, source, conditionings=rig.runs.pair(64, 32), steps=12, relevance_floor=0.1)
    assert torch.isfinite(result).all() and rig.runs.moved(result, source) > 0.05
    assert 0.12 < min(levels) and max(levels) < 0.62


def test_noise_of_a_flow_model_is_mixed_in(rig):
    """(1 - sigma) x + sigma noise: at a large sigma the latent's own size must not come through."""
    patcher = rig.micro.flux()
    delta = rig.style_branch.Delta(1.0, ("diff", (torch.zeros(64, 128),)))
    branch = rig.style_branch.StyleBranch("none", {"diffusion_model.final_layer.linear.weight": (delta,)})
    styled, sizes = rig.style_branch.attach(patcher, branch), []

    def note(executor, x, t, *args, **kwargs):
        sizes.append((t[0].item(), x.mean().item()))
        return executor(x, t, *args, **kwargs)

    styled.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.sizes", note)
    source = torch.full((1, 16, 16, 16), 100.0)
    rig.runs.sms(styled, source, conditionings=rig.runs.pair(64, 32), steps=2)
    in_scale = patcher.model.process_latent_in(source).mean().item()
    assert all(mean == pytest.approx((1 - sigma) * in_scale, rel=0.01) for sigma, mean in sizes)


def test_edit_prompt_makes_the_relevance_map(rig, styled):
    conditionings = {**rig.runs.pair(), "edit": rig.runs.conditioning(7)}
    source = rig.runs.latent()
    with_edit = rig.runs.sms(styled, source, conditionings=conditionings, relevance_floor=0.1)
    assert not torch.equal(with_edit, rig.runs.sms(styled, source, relevance_floor=0.1))
    assert torch.equal(rig.runs.sms(styled, source, conditionings=conditionings), rig.runs.sms(styled, source))


def test_progress_is_reported_to_the_last_step(rig, styled):
    steps: list[tuple[int, int]] = []
    rig.runs.sms(styled, rig.runs.latent(), steps=7, callback=lambda step, x0, x, total: steps.append((step, total)))
    assert steps == [(step, 7) for step in range(7)]


def test_progress_of_a_long_run_is_thinned_out(rig, styled):
    steps: list[int] = []
    rig.runs.sms(styled, rig.runs.latent(1, 4, 2, 2), steps=100, cfg=1.0, callback=lambda step, *_: steps.append(step))
    assert len(steps) == 51 and steps[-1] == 99


def test_sigmas_have_a_level_per_step_and_end_at_the_lowest(rig, micro):
    sigmas = rig.runs.bounds(micro, 9)
    assert len(sigmas) == 10 and sigmas[-1] == pytest.approx(0.1415, abs=1e-4)
    assert sigmas.tolist() == sorted(sigmas.tolist(), reverse=True)


# prompts and terms


def contexts(rig, model) -> tuple:
    """(clone, found): the tokens that each branch's rows see, by (branch name, polarity)."""
    recorded, found = model.clone(), {}

    def note(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        for branch, tokens in zip(options[rig.rows.CHUNKS], c_crossattn.chunk(len(c_crossattn) // 2), strict=True):
            found.setdefault((branch.name, branch.polarity), []).append(tokens[:1].clone())
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.contexts", note)
    return recorded, found


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_source_prompt_is_the_fake_scores_alone(rig, styled, given, trained):
    conditionings, positive = rig.runs.pair(), rig.runs.conditioning(1)[0][0]
    negative, source = rig.runs.conditioning(2)[0][0], rig.runs.conditioning(6)[0][0]
    if given:
        conditionings["source"] = rig.runs.conditioning(6)
    recorded, found = contexts(rig, styled)
    rig.runs.sms(recorded, rig.runs.latent(), conditionings=conditionings, trained=trained, steps=3)
    expected = {
        ("style", 0): positive,
        ("style", 1): negative,
        ("base", 0): source if given else positive,
        ("base", 1): negative,
    }
    assert found.keys() == expected.keys()
    for branch, tokens in expected.items():
        assert all(torch.equal(one, tokens) for one in found[branch]), branch
    assert len(found["base", 0]) == (6 if trained else 3)  # training asks for the same prompt


def test_content_pull_draws_towards_the_input(rig, styled):
    source = rig.runs.latent()
    results = [rig.runs.sms(styled, source, steps=8, pull=pull) for pull in (0.0, 2.0, 8.0, 1e6)]
    distances = [(result - source).square().mean().item() for result in results]
    assert distances[0] > 1.1 * distances[1] > 1.2 * distances[2] > 0
    assert rig.runs.moved(results[3], source) < 1e-5


def test_proximal_hold_without_end_locks_its_band_alone(rig, styled):
    import scipy.fft

    hold = rig.sms_settings.SpectrumHold(weight=1e9, proximal=True, color=0.0, band=0.5)
    held = rig.attachments.attach_once(styled, rig.sms_settings.SPECTRUM, hold, rig.ordinary.REGULARIZER)
    source = rig.runs.latent()
    result = rig.runs.sms(held, source, sigmas=torch.tensor([0.7] * 4 + [0.2]), drawn=False)
    change = torch.from_numpy(scipy.fft.dctn((result - source).numpy(), axes=(-2, -1), norm="ortho")).abs()
    u, v = torch.arange(12)[:, None] / 11, torch.arange(10)[None, :] / 9
    band = u + v <= 0.98
    color, band[0, 0] = change[..., 0, 0].clone(), False
    assert change[..., band].max() < 1e-3
    assert change[..., u + v > 1.02].max() > 0.05
    assert color.max() > 0.05


def test_refiners_mask_on_the_model_scales_the_score(rig, styled):
    source, mask = rig.runs.latent(), torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    settings = rig.sms_settings.Refinement(floor=0.0, mask=mask)
    refined = rig.attachments.attach_once(styled, rig.sms_settings.REFINEMENT, settings, rig.ordinary.REFINER)
    result = rig.runs.sms(refined, source, spectrum=0.0)
    assert rig.runs.moved(result[..., :5], source[..., :5]) < 1e-5
    assert rig.runs.moved(result[..., 5:], source[..., 5:]) > 0.05
    everywhere = rig.sms_settings.Refinement(floor=0.5, mask=mask)
    lifted = rig.attachments.attach_once(styled, rig.sms_settings.REFINEMENT, everywhere, rig.ordinary.REFINER)
    assert rig.runs.moved(rig.runs.sms(lifted, source, spectrum=0.0)[..., :5], source[..., :5]) > 0.05


def test_refiners_mask_of_another_aspect_is_refused_by_the_refiners_name(rig, styled, outputs):
    settings = rig.sms_settings.Refinement(mask=torch.ones(1, 64, 64), node=rig.ordinary.REFINER)
    refined = rig.attachments.attach_once(styled, rig.sms_settings.REFINEMENT, settings, rig.ordinary.REFINER)
    with pytest.raises(ValueError) as caught:
        rig.runs.sms(refined, rig.runs.latent())
    message = str(caught.value)
    assert message.startswith("Stylize Semantic Refiner, mask: it is 64x64 pixels, the picture about 80x96.")
    assert not outputs.exists()
