"""The relevance map, asked of a loaded model: once before a run, and at each step of SMS."""

from __future__ import annotations

import numpy
import pytest
import scipy.ndimage
import torch


def prompts(rig, width: int = 64, pooled: int = 0) -> dict[str, list]:
    """The edit prompt and the empty one, under the keys that the map's guider has."""
    return {"positive": rig.runs.conditioning(7, width, pooled), "negative": rig.runs.conditioning(8, width, pooled)}


def run(rig, model, source, conditionings=None, *, seed: int = 3, callback=None, noises: int = 1, **scaling):
    """(sampler with its map, LATENT that came back)."""
    import comfy.samplers

    sampler = rig.relevance_map.RelevanceSampler(noises, **scaling)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conditionings or prompts(rig))
    with torch.inference_mode():
        back = guider.sample(
            torch.zeros_like(source), source, sampler, torch.tensor([1.0, 0.0]), callback=callback, seed=seed
        )
    return sampler, back


def noting(rig, model) -> tuple:
    """(clone, calls): every model call as (level, noised input, branch names)."""
    clone, calls = model.clone(), []

    def note(executor, x, t, *args, **kwargs):
        chunks = args[3].get(rig.rows.CHUNKS, ())
        calls.append((t[0].item(), x.clone(), tuple(branch.name for branch in chunks)))
        return executor(x, t, *args, **kwargs)

    clone.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.noting", note)
    return clone, calls


# made once


def map_by_hand(fields: numpy.ndarray, floor: float, percentile: float, blur: float) -> numpy.ndarray:
    """(K, B, H, W) discrepancies -> (B, H, W): each in units of its mean, averaged, blurred, clipped, scaled."""
    average = (fields / fields.mean(axis=(2, 3), keepdims=True)).mean(axis=0)
    maps = []
    for one in average:
        radius = int(numpy.ceil(3 * blur))
        one = scipy.ndimage.gaussian_filter(one, blur, mode="nearest", radius=radius) if blur else one
        one = one.clip(*numpy.percentile(one, [percentile, 100 - percentile]))
        maps.append(floor + (1 - floor) * (one - one.min()) / (one.max() - one.min()))
    return numpy.stack(maps)


def asked_by_hand(rig, model, calls, conditionings) -> numpy.ndarray:
    """|channel mean of D_edit - D_empty| for the inputs of the calls, each prediction by ComfyUI alone."""
    fields = []
    for sigma, x, _ in calls:
        answers = rig.runs.plain(model, conditionings, x[: len(x) // 2], sigma)
        fields.append((answers["positive"] - answers["negative"]).mean(1).abs().double().numpy())
    return numpy.stack(fields)


@pytest.mark.parametrize(
    ("floor", "percentile", "blur", "noises"), [(0.1, 2.0, 0.7, 1), (0.0, 0.0, 0.0, 2), (0.4, 20.0, 2.0, 1)]
)
def test_map_is_the_formula(rig, micro, floor, percentile, blur, noises):
    source, (recorded, calls) = rig.runs.latent(), noting(rig, micro)
    sampler, _ = run(rig, recorded, source, noises=noises, floor=floor, percentile=percentile, blur=blur)
    expected = map_by_hand(asked_by_hand(rig, micro, calls, prompts(rig)), floor, percentile, blur)
    assert sampler.map.shape == (2, 1, 12, 10)
    assert numpy.abs(sampler.map[:, 0].numpy() - expected).max() < 2e-3


def test_questions_are_the_noised_source_at_four_levels(rig, micro):
    """With fresh unit noise each, the same for edit and empty; timesteps 101 to 401 of the chain."""
    source, (recorded, calls) = rig.runs.latent(), noting(rig, micro)
    run(rig, recorded, source, noises=3)
    chain = micro.get_model_object("model_sampling").sigmas
    assert [level for level, *_ in calls] == pytest.approx(chain[[101, 201, 301, 401]].tolist() * 3, rel=1e-5)
    content = micro.model.process_latent_in(source)
    noises = [(x[:2] - content) / level for level, x, _ in calls]
    assert all(torch.equal(x[:2], x[2:]) for _, x, _ in calls)
    flat = torch.stack([noise.flatten() for noise in noises])
    assert (flat.std(1) - 1).abs().max() < 0.1
    assert (torch.corrcoef(flat) - torch.eye(12)).abs().max() < 0.2


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_flow_model_is_asked_at_levels_of_the_flow(rig, wiring_model, family):
    model = rig.micro.flux() if family == "flux" else wiring_model("sd3")
    source, (recorded, calls) = rig.runs.latent(1, 16, 8, 6), noting(rig, model)
    sampler, _ = run(rig, recorded, source, prompts(rig, 64, 32), blur=0.0)
    chain = rig.micro.unet().get_model_object("model_sampling").sigmas[[101, 201, 301, 401]]
    assert [level for level, *_ in calls] == pytest.approx((chain / (1 + chain)).tolist(), rel=1e-5)
    expected = map_by_hand(asked_by_hand(rig, model, calls, prompts(rig, 64, 32)), 0.1, 2.0, 0.0)
    assert numpy.abs(sampler.map[:, 0].numpy() - expected).max() < 1e-2


def test_pooled_prompts_of_sdxl_are_asked_with(rig, wiring_model):
    """Two prompts of the same tokens that differ in nothing but the pooled part."""
    model, source = wiring_model("sdxl"), rig.runs.latent(1, 4, 8, 8)
    tokens = rig.runs.conditioning(7, 2048)[0][0]
    pooled = [rig.runs.drawn(1, 1280, seed=seed) for seed in (1, 2)]
    pair = {key: [[tokens, {"pooled_output": one}]] for key, one in zip(("positive", "negative"), pooled, strict=True)}
    recorded, calls = noting(rig, model)
    sampler, _ = run(rig, recorded, source, pair, blur=0.0)
    fields = asked_by_hand(rig, model, calls, pair)
    assert fields.min() >= 0 and fields.mean() > 0
    assert numpy.abs(sampler.map[:, 0].numpy() - map_by_hand(fields, 0.1, 2.0, 0.0)).max() < 1e-2
    assert sampler.map.std() > 0.1


def test_latent_comes_back_as_it_was(rig, micro):
    source = rig.runs.latent()
    kept = source.clone()
    _, back = run(rig, micro, source)
    assert torch.equal(source, kept)
    assert torch.allclose(back, source, rtol=1e-5, atol=1e-6)


def test_same_seed_same_map(rig, micro):
    source = rig.runs.latent()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(rig, micro, source)[0].map
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(run(rig, micro, source)[0].map, first)
    assert not torch.equal(run(rig, micro, source, seed=4)[0].map, first)


def test_equal_prompts_act_everywhere(rig, micro):
    same = {"positive": rig.runs.conditioning(7), "negative": rig.runs.conditioning(7)}
    assert torch.equal(run(rig, micro, rig.runs.latent(), same)[0].map, torch.ones(2, 1, 12, 10))


def test_lora_on_the_model_takes_part_a_style_branch_does_not(rig, micro, styled, tmp_path):
    path, source = rig.loras.saved(rig.loras.kohya(micro), tmp_path / "stock.safetensors"), rig.runs.latent()
    plain = run(rig, micro, source)[0].map
    assert torch.equal(run(rig, styled, source)[0].map, plain)
    assert not torch.equal(run(rig, rig.loras.weight_patched(micro, path, 0.8), source)[0].map, plain)


def test_progress_counts_the_questions(rig, micro):
    steps: list[tuple[int, int]] = []
    run(rig, micro, rig.runs.latent(), noises=2, callback=lambda step, x0, x, total: steps.append((step, total)))
    assert steps == [(step, 8) for step in range(8)]


def test_interrupt_ends_it_and_leaves_nothing(rig, styled):
    source = rig.runs.latent()
    run(rig, styled, source)
    before, (recorded, calls) = rig.leaks.state(styled), noting(rig, styled)

    def interrupt(step, *_):
        if step == 1:
            rig.model_management.interrupt_current_processing(True)

    with pytest.raises(rig.model_management.InterruptProcessingException):
        run(rig, recorded, source, callback=interrupt)
    assert len(calls) == 2
    assert rig.leaks.state(styled) == before
    assert styled.model.current_patcher is None


# conditionings


def test_controlnets_are_taken_off_the_prompts(rig, micro):
    """On copies; the given entries keep theirs."""
    control = object()
    entries = {"positive": [{"control": control, "control_apply_to_uncond": True, "model_conds": {}, "uuid": 1}]}

    def ask(guider, options):
        return rig.conditioning.process(guider.inner_model, rig.runs.latent(), entries, seed=0)

    processed = rig.runs.inside(micro, rig.runs.pair(), rig.runs.latent(), ask)
    (entry,) = processed["positive"]
    assert "control" not in entry and "control_apply_to_uncond" not in entry
    assert entry["uuid"] == 1
    assert entries["positive"][0]["control"] is control


def test_processed_prompts_give_the_models_own_predictions(rig, micro):
    """Areas in percent, masks in pixels and pooled parts are made ready as a guider makes them."""
    mask = torch.zeros(1, 96, 80)
    mask[:, 48:] = 1.0
    runs, x = rig.runs, rig.runs.latent()
    placed = runs.conditioning(5, area=("percentage", 0.5, 1.0, 0.5, 0.0)) + runs.conditioning(6, mask=mask)
    conditionings = {"positive": runs.conditioning(1) + placed, "negative": runs.conditioning(2)}

    def ask(guider, options):
        import comfy.sampler_helpers

        entries = {key: comfy.sampler_helpers.convert_cond(value) for key, value in conditionings.items()}
        ready = rig.conditioning.process(guider.inner_model, x, entries, seed=0)
        return rig.relevance_map.ask_pair(
            guider.inner_model, ready["positive"], ready["negative"], x, runs.SIGMA, options
        )

    edit, empty = runs.inside(micro, runs.pair(), x, ask)
    plain = runs.plain(micro, conditionings, x)
    assert torch.allclose(edit, plain["positive"], atol=1e-5)
    assert torch.allclose(empty, plain["negative"], atol=1e-5)
    assert (edit - runs.plain(micro, runs.pair(), x)["positive"]).abs().max() > 1e-2


# live, as published


def live_calls(rig, styled, source, **settings) -> tuple[list, list]:
    """((level, input) of the map's questions, (level, input) of the scores')."""
    recorded, calls = noting(rig, styled)
    rig.runs.sms(recorded, source, relevance_floor=0.0, live=True, **settings)
    rows = source.shape[0]
    maps = [(level, x[:rows]) for level, x, names in calls if set(names) == {"base"}]
    scores = [(level, x[:rows]) for level, x, names in calls if "style" in names]
    assert len(maps) + len(scores) == len(calls)
    return maps, scores


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_live_map_shares_level_and_noise_with_the_scores(rig, styled, tmp_path, family):
    source, given = rig.runs.latent(), {}
    if family == "flow":
        flux = rig.micro.flux()
        path = rig.loras.saved(rig.loras.kohya(flux), tmp_path / "flux.safetensors")
        styled = rig.style_branch.attach(flux, rig.lora_files.load_style(path, flux, 0.8))
        source, given = rig.runs.latent(1, 16, 8, 8), {"conditionings": rig.runs.pair(64, 32)}
    reached: list[torch.Tensor] = []
    maps, scores = live_calls(
        rig, styled, source, callback=lambda step, x0, x, total: reached.append(x.clone()), **given
    )
    assert [level for level, _ in maps] == [level for level, _ in scores]
    assert len(maps) == 4 and len({level for level, _ in maps}) > 1
    content = styled.model.process_latent_in(source)
    for step, ((level, map_input), (_, score_input)) in enumerate(zip(maps, scores, strict=True)):
        x = content if step == 0 else reached[step - 1]
        difference = (1 - level if family == "flow" else 1) * (x - content)
        assert torch.allclose(score_input - map_input, difference, atol=1e-5)
    assert (reached[-1] - content).abs().max() > 0.01


def test_live_map_scales_the_score_gradient_of_its_step(rig, styled, monkeypatch):
    """Min-max scaled by itself, as published, then lifted to the floor."""
    seen: list[tuple] = []
    kind = rig.sms_guider.StyleMatchingGuider
    original = kind.edit_pair

    def noted(guider, x, sigma, options):
        seen.append((x.clone(), sigma, original(guider, x, sigma, options)))
        return seen[-1][2]

    monkeypatch.setattr(kind, "edit_pair", noted)
    source = rig.runs.latent()
    live = rig.runs.sms(styled, source, relevance_floor=0.2, live=True)
    assert len(seen) == 4
    maps = []
    for x, sigma, (edit, empty) in seen:
        plain = rig.runs.plain(styled, rig.runs.pair(), x, sigma)
        assert torch.allclose(edit - empty, plain["positive"] - plain["negative"], atol=1e-5)
        field = (edit - empty).mean(1, keepdim=True).abs()
        low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
        maps.append(0.2 + 0.8 * (field - low) / (high - low))
    # handed to the sampler by hand, the same maps give the same picture
    by_step = iter(maps)
    monkeypatch.setattr(rig.sms_sampler, "live_relevance", lambda *_, floor: next(by_step))
    again = rig.runs.sms(styled, source, relevance_floor=0.2, live=True)
    assert (again - live).abs().max() < 1e-4
    monkeypatch.setattr(rig.sms_sampler, "live_relevance", lambda edit, _, floor: torch.ones_like(edit[:, :1]))
    assert (rig.runs.sms(styled, source, relevance_floor=0.2, live=True) - live).abs().max() > 1e-2


def test_live_and_precomputed_maps_are_not_the_same(rig, styled):
    source = rig.runs.latent()
    one, two = (rig.runs.sms(styled, source, relevance_floor=0.1, live=live) for live in (False, True))
    assert not torch.equal(one, two)
