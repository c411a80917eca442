"""Whole SMS runs through ComfyUI's guider: equal graphs, options, interrupts, and nothing left behind."""

from __future__ import annotations

import gc
import json
import pathlib

import pytest
import torch
from safetensors import safe_open


@pytest.fixture
def micro(rig):
    return rig.micro.unet()


@pytest.fixture
def path(rig, micro, tmp_path):
    return rig.loras.saved(rig.loras.kohya(micro), tmp_path / "style.safetensors")


@pytest.fixture
def styled(rig, micro, path):
    return rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8))


@pytest.fixture
def outputs(rig, tmp_path):
    """ComfyUI's output folder, a new one."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path / "output" / "stylization"
    folder_paths.set_output_directory(before)


def latent(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


def moved(result: torch.Tensor, source: torch.Tensor) -> float:
    return (result - source).abs().max().item()


# equal graphs


def test_stock_lora_loader_graph_equals_the_style_lora_graph(rig, micro, styled, path):
    source = latent(rig)
    ours = rig.runs.sms(styled, source)
    stock = rig.runs.sms(micro, source, rig.loras.weight_patched(micro, path, 0.8))
    assert torch.equal(ours, stock)
    assert moved(ours, source) > 0.05


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_scores_are_comfyuis_own_guided_predictions(rig, micro, styled, path, monkeypatch, cfg):
    """Style from the weight-patched, base from the plain model, each with ordinary guidance at the level drawn."""
    kind, seen = rig.style_guider.StyleMatchingGuider, []
    original = kind.score_pair

    def recorded(guider, x, sigma, *others):
        seen.append((x.clone(), sigma, original(guider, x, sigma, *others)))
        return seen[-1][2]

    monkeypatch.setattr(kind, "score_pair", recorded)
    rig.runs.sms(styled, latent(rig), cfg=cfg, steps=2)
    assert len(seen) == 2
    for x, sigma, found in seen:
        for model, guided in zip((rig.loras.weight_patched(micro, path, 0.8), micro), found, strict=True):
            parts = rig.runs.plain(model, rig.runs.pair(), x, sigma)
            expected = parts["negative"] + cfg * (parts["positive"] - parts["negative"])
            assert moved(guided, expected) < 1e-4 * moved(*found)


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_second_checkpoint_equals_the_gate(rig, micro, styled, path, cfg):
    """The same base loaded twice, the second one weight-patched: the style is then a model of its own."""
    source = latent(rig)
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    gate, two = rig.runs.sms(styled, source, cfg=cfg), rig.runs.sms(micro, source, second, cfg=cfg)
    # Adam divides the difference of two predictions by its own size, so rounding of the models grows in the latent
    assert moved(gate, two) < 1e-3 * moved(gate, source)


def test_style_lora_on_a_second_checkpoint_acts_there(rig, micro, styled, path):
    other, source = rig.micro.unet(), latent(rig)
    second = rig.style_branch.attach(other, rig.lora_files.load_style(path, other, 0.8))
    gate, two = rig.runs.sms(styled, source), rig.runs.sms(micro, source, second)
    assert moved(gate, two) < 1e-3 * moved(gate, source)
    assert rig.leaks.network(other)["hooks"] == []


def test_base_and_style_with_loras_of_their_own_equal_two_checkpoints(rig, micro, path, tmp_path):
    other = rig.loras.saved(rig.loras.full(micro), tmp_path / "full.safetensors")
    base, style = rig.loras.weight_patched(micro, path, 0.8), rig.loras.weight_patched(micro, other, 0.5)
    second = rig.loras.weight_patched(rig.micro.unet(), other, 0.5)
    source = latent(rig)
    lifted, two = rig.runs.sms(base, source, style), rig.runs.sms(base, source, second)
    assert moved(lifted, two) < 1e-3 * moved(lifted, source)


def test_split_calls_equal_batched_calls(rig, styled, monkeypatch):
    source = latent(rig)
    batched = rig.runs.sms(styled, source, relevance_floor=0.1)
    rig.runs.split_calls(monkeypatch, styled)
    assert moved(batched, rig.runs.sms(styled, source, relevance_floor=0.1)) < 1e-3 * moved(batched, source)


def test_pictures_of_a_batch_do_not_see_each_other_beyond_the_noise(rig, styled):
    """Adding a picture behind the first one leaves the first one's noise, and so its result, alone."""
    source = latent(rig, 1, 4, 12, 10).expand(3, 4, 12, 10).clone()
    other = source.clone()
    other[1:] *= -0.5
    one, two = rig.runs.sms(styled, source)[0], rig.runs.sms(styled, other)[0]
    assert moved(one, two) < 1e-3 * moved(one, source[0])


# options


@pytest.mark.parametrize("shape", [(1, 4, 13, 9), (3, 4, 12, 10), (1, 4, 8, 24), (1, 4, 64, 5)])
def test_any_size_and_batch(rig, styled, shape):
    source = latent(rig, *shape)
    result = rig.runs.sms(styled, source, relevance_floor=0.1, steps=3)
    assert result.shape == source.shape
    assert torch.isfinite(result).all()
    assert moved(result, source) > 0.05


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_rows_of_each_call(rig, styled, cfg):
    recorded, calls = rig.runs.recording(styled)
    rig.runs.sms(recorded, latent(rig, 3, 4, 8, 8), cfg=cfg, steps=3)
    assert [rows for _, _, rows in calls] == [3 * (2 if cfg == 1.0 else 4)] * 3


def test_relevance_is_computed_once_before_the_run(rig, styled):
    recorded, calls = rig.runs.recording(styled)
    rig.runs.sms(recorded, latent(rig), relevance_floor=0.1, steps=3)
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
        rig.runs.sms(recorded, latent(rig), **settings)
        seen.append(inputs)
    plain, *others = seen
    for other in others:
        assert [level for level, _ in other] == [level for level, _ in plain]
        # The first two steps see the source itself: step 0 has size 0.
        assert all(torch.equal(one[1], two[1]) for one, two in zip(plain[:2], other[:2], strict=True))


def test_strength_zero_and_dial_zero_return_the_latent_itself(rig, styled):
    source = latent(rig)
    assert rig.runs.sms(styled, source, strength=0.0) is source
    off = styled.clone()
    off.model_options["transformer_options"][rig.dial.DIAL] = 0.0
    assert rig.runs.sms(off, source) is source


def test_dial_multiplies_the_strength(rig, styled):
    source, half = latent(rig), styled.clone()
    half.model_options["transformer_options"][rig.dial.DIAL] = 0.5
    assert torch.equal(rig.runs.sms(half, source), rig.runs.sms(styled, source, strength=0.5))


def test_mask_protects_and_frees(rig, styled):
    source = latent(rig)
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    result = rig.runs.sms(styled, source, mask=mask, spectrum=0.0)
    assert torch.equal(result[..., :5], source[..., :5])
    assert moved(result[..., 5:], source[..., 5:]) > 0.05


def test_same_seed_same_picture(rig, styled):
    source = latent(rig)
    torch.manual_seed(1)
    first = rig.runs.sms(styled, source, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, rig.runs.sms(styled, source, seed=5))
    assert not torch.equal(first, rig.runs.sms(styled, source, seed=6))


def test_global_generator_is_not_moved(rig, styled):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    rig.runs.sms(styled, latent(rig), relevance_floor=0.1)
    assert torch.equal(state, torch.get_rng_state())


def test_v_prediction_model(rig, tmp_path):
    patcher = rig.micro.unet(prediction="V_PREDICTION")
    path = rig.loras.saved(rig.loras.kohya(patcher), tmp_path / "v.safetensors")
    styled = rig.style_branch.attach(patcher, rig.lora_files.load_style(path, patcher, 0.8))
    second = rig.loras.weight_patched(rig.micro.unet(prediction="V_PREDICTION"), path, 0.8)
    source = latent(rig)
    gate = rig.runs.sms(styled, source)
    assert moved(gate, rig.runs.sms(patcher, source, second)) < 1e-3 * moved(gate, source)


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
    source = latent(rig, 2, 16, 13, 10)
    result = rig.runs.sms(styled, source, conditionings=rig.runs.pair(64, 32), steps=12, relevance_floor=0.1)
    assert torch.isfinite(result).all() and moved(result, source) > 0.05
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
    source = latent(rig)
    with_edit = rig.runs.sms(styled, source, conditionings=conditionings, relevance_floor=0.1)
    assert not torch.equal(with_edit, rig.runs.sms(styled, source, relevance_floor=0.1))
    assert torch.equal(rig.runs.sms(styled, source, conditionings=conditionings), rig.runs.sms(styled, source))


def test_progress_is_reported_to_the_last_step(rig, styled):
    steps: list[tuple[int, int]] = []
    rig.runs.sms(styled, latent(rig), steps=7, callback=lambda step, x0, x, total: steps.append((step, total)))
    assert steps == [(step, 7) for step in range(7)]


def test_progress_of_a_long_run_is_thinned_out(rig, styled):
    steps: list[int] = []
    rig.runs.sms(styled, latent(rig, 1, 4, 2, 2), steps=100, cfg=1.0, callback=lambda step, *_: steps.append(step))
    assert len(steps) == 51 and steps[-1] == 99


def test_sigmas_have_a_level_per_step_and_end_at_the_lowest(rig, micro):
    sigmas = rig.runs.bounds(micro, 9)
    assert len(sigmas) == 10 and sigmas[-1] == pytest.approx(0.1415, abs=1e-4)
    assert sigmas.tolist() == sorted(sigmas.tolist(), reverse=True)


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
    assert moved(*results) < 1e-4 * results[1].abs().max()


def test_other_guiders_are_refused_by_name(rig, micro):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(micro)
    guider.inner_set_conds(rig.runs.pair())
    source = latent(rig)
    with pytest.raises(ValueError, match="not a CFGGuider.*Stylize SMS Guider"), torch.inference_mode():
        guider.sample(source, source, rig.sms.StyleMatchingSampler(), torch.tensor([1.0, 0.0]), seed=0)


def test_perturbed_attention_guidance_on_the_model_does_not_break(rig, styled):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    guided = PerturbedAttentionGuidance.execute(styled, 3.0)[0]
    source = latent(rig)
    assert torch.equal(rig.runs.sms(guided, source), rig.runs.sms(styled, source))


def test_plain_sampling_of_a_model_that_carries_a_style_is_the_plain_model(rig, micro, styled):
    x = latent(rig)
    one, two = rig.runs.plain(styled, rig.runs.pair(), x), rig.runs.plain(micro, rig.runs.pair(), x)
    assert all(torch.equal(one[key], two[key]) for key in one)


# nothing left


def failing_at(patcher, rig, call: int):
    """A clone whose model raises at its n-th call."""
    clone, calls = patcher.clone(), []

    def fail(q, k, v, options):
        calls.append(1)
        if len(calls) > 5 * call:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    clone.set_model_attn1_patch(fail)
    return clone


def interrupted_at(rig, last: int):
    def callback(step, x0, x, total):
        if step == last:
            rig.model_management.interrupt_current_processing(True)

    return callback


def interrupt(rig, model, source, last: int = 2, **settings):
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.runs.sms(model, source, steps=9, callback=interrupted_at(rig, last), **settings)


def run_to(rig, ending: str, model, source, style=None):
    if ending == "success":
        rig.runs.sms(model, source, style, relevance_floor=0.1)
    elif ending == "exception":
        with pytest.raises(ZeroDivisionError):
            rig.runs.sms(failing_at(model, rig, 2), source, style)
    else:
        interrupt(rig, model, source)


@pytest.mark.parametrize("ending", ["success", "exception", "interrupt"])
def test_nothing_is_left_on_the_model(rig, styled, outputs, ending):
    source = latent(rig)
    rig.runs.sms(styled, source, steps=1)  # ComfyUI itself marks a module that it has loaded once
    before, kept = rig.leaks.state(styled), source.clone()
    run_to(rig, ending, styled, source)
    assert rig.leaks.state(styled) == before
    assert before["hooks"] == [] and before["forwards"] == []
    assert torch.equal(source, kept)


@pytest.mark.parametrize("ending", ["success", "exception"])
def test_nothing_is_left_on_two_models(rig, micro, path, outputs, ending):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    source = latent(rig)
    rig.runs.sms(micro, source, second, steps=1)
    before = rig.leaks.state(micro), rig.leaks.patcher_state(second)
    run_to(rig, ending, micro, source, second)
    assert (rig.leaks.state(micro), rig.leaks.patcher_state(second)) == before
    assert rig.leaks.network(second)["hooks"] == []
    assert second.model.current_patcher is None  # ComfyUI's sign of a run in progress


def test_after_a_failed_run_the_next_one_is_as_if_nothing_had_happened(rig, styled, outputs):
    source = latent(rig)
    before = rig.runs.sms(styled, source)
    run_to(rig, "exception", styled, source)
    interrupt(rig, styled, source)
    assert torch.equal(rig.runs.sms(styled, source), before)


def test_clones_never_see_each_others_style(rig, micro, tmp_path):
    files = [rig.loras.kohya(micro), rig.loras.full(micro)]
    styles = []
    for number, weights in enumerate(files):
        path = rig.loras.saved(weights, tmp_path / f"{number}.safetensors")
        styles.append(rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8)))
    source = latent(rig)
    alone = [rig.runs.sms(style, source) for style in styles]
    again = [rig.runs.sms(style, source) for style in styles[::-1]][::-1]
    assert all(torch.equal(one, two) for one, two in zip(alone, again, strict=True))
    assert not torch.equal(*alone)


def test_ten_runs_leave_no_more_than_one(rig, styled):
    source = latent(rig, 1, 4, 8, 8)

    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    rig.runs.sms(styled, source, steps=2)
    rig.runs.sms(styled, source, steps=2)
    before, state = tensors(), rig.leaks.patcher_state(styled)
    for _ in range(10):
        rig.runs.sms(styled, source, steps=2, relevance_floor=0.1)
    assert tensors() <= before
    assert rig.leaks.patcher_state(styled) == state
    assert rig.leaks.network(styled)["hooks"] == []


def test_row_gate_of_a_run_is_freed_with_it(rig, styled):
    guider = rig.runs.guider(styled)
    source = latent(rig)
    with torch.inference_mode():
        guider.sample(source, source, rig.sms.StyleMatchingSampler(), torch.tensor([1.6, 0.8, 0.1]), seed=0)
    assert guider._gate is None and guider.windows is None and guider._second is None


# interrupts and going on


def saved_latent(outputs: pathlib.Path) -> pathlib.Path:
    (path,) = outputs.glob("*.latent")
    return path


def test_interrupt_leaves_what_was_reached(rig, styled, outputs):
    source, seen = latent(rig), {}
    interrupting = interrupted_at(rig, 4)

    def callback(step, x0, x, total):
        seen[step] = x.clone()
        interrupting(step, x0, x, total)

    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.runs.sms(styled, source, steps=9, callback=callback)
    path = saved_latent(outputs)
    assert path.name.startswith("sms_stopped_at_5_of_9")
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["stylization"]) == {"version": 1, "what": "sms", "step": 5, "steps": 9}
        reached = file.get_tensor("latent_tensor")
    assert torch.equal(reached, styled.model.process_latent_out(seen[4]))


def test_comfyuis_load_latent_reads_it_and_the_run_goes_on(rig, comfy, styled, outputs, monkeypatch):
    import folder_paths

    source = latent(rig)
    interrupt(rig, styled, source, last=4)
    path = saved_latent(outputs)
    monkeypatch.setattr(folder_paths, "get_annotated_filepath", lambda name: str(path))
    reached = comfy.stock_nodes().LoadLatent().load(path.name)[0]["samples"]
    assert reached.shape == source.shape
    assert 0 < moved(reached, source) < 5
    steps: list[int] = []
    result = rig.runs.sms(
        styled, source, steps=9, start=5, reached=reached, callback=lambda step, *_: steps.append(step)
    )
    assert steps == [5, 6, 7, 8]
    assert moved(result, reached) > 0.01
    assert moved(result, rig.runs.sms(styled, source, steps=9)) < moved(result, source)


def test_exception_in_the_model_keeps_what_was_reached_too(rig, styled, outputs):
    run_to(rig, "exception", styled, latent(rig))
    assert saved_latent(outputs).name.startswith("sms_stopped_at_")


def test_finished_run_and_early_failure_leave_no_file(rig, styled, outputs):
    rig.runs.sms(styled, latent(rig))
    with pytest.raises(ZeroDivisionError):
        rig.runs.sms(failing_at(styled, rig, 0), latent(rig))
    assert not outputs.exists()


def test_full_disk_does_not_hide_the_interrupt(rig, styled, outputs, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(rig.reached.comfy.utils, "save_torch_file", refuse)
    interrupt(rig, styled, latent(rig))
    assert "could not be saved" in caplog.text


# levels of SIGMAS


def asked_levels(rig, model, source, sigmas, **settings) -> list[float]:
    """The levels of the scores' model calls."""
    recorded, levels = model.clone(), []

    def note(executor, x, t, *args, **kwargs):
        levels.append(t[0].item())
        return executor(x, t, *args, **kwargs)

    recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.levels", note)
    rig.runs.sms(recorded, source, sigmas=torch.as_tensor(sigmas), **settings)
    return levels


def scheduled(rig, model, scheduler: str, steps: int) -> torch.Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def test_levels_as_given_are_the_sigmas_themselves(rig, styled):
    levels = asked_levels(rig, styled, latent(rig), [1.6, 0.31, 0.9, 0.2], drawn=False)
    assert levels == pytest.approx([1.6, 0.31, 0.9], rel=1e-6)


def test_drawn_levels_lie_between_their_bound_and_the_last_sigma(rig, styled):
    bounds = [1.6] * 6 + [0.6] * 6
    levels = asked_levels(rig, styled, latent(rig, 1, 4, 4, 4), [*bounds, 0.3], cfg=1.0)
    assert all(0.29 < level <= bound for level, bound in zip(levels, bounds, strict=True))
    assert max(levels[:6]) > 0.6 and len(set(levels)) > 6
    other = asked_levels(rig, styled, latent(rig, 1, 4, 4, 4), [*bounds, 0.3], cfg=1.0, seed=4)
    assert other != levels


@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "ddim_uniform", "sgm_uniform"])
def test_sigmas_of_an_ordinary_scheduler(rig, styled, scheduler):
    """They end at zero, which stands for the published lowest level when levels are drawn."""
    source = latent(rig, 1, 4, 4, 4)
    *bounds, last = sigmas = scheduled(rig, styled, scheduler, 9)
    assert last == 0
    lowest = styled.get_model_object("model_sampling").sigmas[21].item()
    given = asked_levels(rig, styled, source, sigmas, drawn=False, cfg=1.0)
    assert given == pytest.approx([float(bound) for bound in bounds], rel=1e-6)
    drawn = asked_levels(rig, styled, source, sigmas, cfg=1.0)
    for level, bound in zip(drawn, bounds, strict=True):
        assert lowest * 0.999 < level <= max(float(bound), lowest) * 1.001


@pytest.mark.parametrize("drawn", [True, False])
def test_sigmas_of_a_flow_from_pure_noise_on(rig, tmp_path, drawn):
    flux = rig.micro.flux()
    path = rig.loras.saved(rig.loras.kohya(flux), tmp_path / "flux.safetensors")
    styled = rig.style_branch.attach(flux, rig.lora_files.load_style(path, flux, 0.8))
    sigmas, conditionings = scheduled(rig, flux, "simple", 5), rig.runs.pair(64, 32)
    source = latent(rig, 1, 16, 4, 4)
    levels = asked_levels(rig, styled, source, sigmas, conditionings=conditionings, drawn=drawn, cfg=1.0)
    assert sigmas[0] == 1.0 and len(levels) == 5
    assert all(0 < level <= bound * 1.001 for level, bound in zip(levels, sigmas.tolist(), strict=False))
    assert drawn or levels == pytest.approx(sigmas[:-1].tolist(), rel=1e-6)


def test_level_below_what_the_model_knows_is_its_smallest(rig, styled):
    levels = asked_levels(rig, styled, latent(rig), [1.0, 0.001, 0.0], drawn=False)
    smallest = styled.get_model_object("model_sampling").sigma_min.item()
    assert levels == pytest.approx([1.0, smallest], rel=1e-6)


@pytest.mark.parametrize("drawn", [True, False])
def test_sigmas_that_end_just_above_zero_are_no_wrap_around(rig, styled, monkeypatch, drawn):
    """Split sigmas may end at the model's smallest level, below which the chain has nothing."""
    schedules, original = [], rig.sms.optimize

    def noted(source, schedule, *args, **kwargs):
        schedules.append(schedule)
        return original(source, schedule, *args, **kwargs)

    monkeypatch.setattr(rig.sms, "optimize", noted)
    levels = asked_levels(rig, styled, latent(rig, 1, 4, 4, 4), [0.05] * 9 + [0.0292], drawn=drawn, cfg=1.0)
    assert max(levels) < 0.07
    assert max(schedules[0].weights) < 0.02  # of the order of the published ones
    assert min(schedules[0].timesteps) >= 3


def test_empty_sigmas_are_refused(rig, styled):
    with pytest.raises(ValueError, match="sigmas: they hold no step. Connect 'Stylize SMS Sigmas'"):
        rig.runs.sms(styled, latent(rig), sigmas=torch.tensor([1.0]))


# prompts and terms


def contexts(rig, model) -> tuple:
    """(clone, found): the tokens that each branch's rows see, by (branch name, polarity)."""
    recorded, found = model.clone(), {}

    def note(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        for branch, tokens in zip(options[rig.branches.CHUNKS], c_crossattn.chunk(len(c_crossattn) // 2), strict=True):
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
    rig.runs.sms(recorded, latent(rig), conditionings=conditionings, trained=trained, steps=3)
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
    source = latent(rig)
    results = [rig.runs.sms(styled, source, steps=8, pull=pull) for pull in (0.0, 2.0, 8.0, 1e6)]
    distances = [(result - source).square().mean().item() for result in results]
    assert distances[0] > 1.1 * distances[1] > 1.2 * distances[2] > 0
    assert moved(results[3], source) < 1e-5


def test_proximal_hold_without_end_locks_its_band_alone(rig, styled):
    import scipy.fft

    hold = rig.settings.SpectrumHold(weight=1e9, proximal=True, color=0.0, band=0.5)
    held = rig.settings.attach_once(styled, rig.settings.SPECTRUM, hold, rig.settings.REGULARIZER)
    source = latent(rig)
    result = rig.runs.sms(held, source, sigmas=torch.tensor([0.7] * 4 + [0.2]), drawn=False)
    change = torch.from_numpy(scipy.fft.dctn((result - source).numpy(), axes=(-2, -1), norm="ortho")).abs()
    u, v = torch.arange(12)[:, None] / 11, torch.arange(10)[None, :] / 9
    band = u + v <= 0.98
    color, band[0, 0] = change[..., 0, 0].clone(), False
    assert change[..., band].max() < 1e-3
    assert change[..., u + v > 1.02].max() > 0.05
    assert color.max() > 0.05


def test_refiners_mask_on_the_model_scales_the_score(rig, styled):
    source, mask = latent(rig), torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    settings = rig.settings.Refinement(floor=0.0, mask=mask)
    refined = rig.settings.attach_once(styled, rig.settings.REFINEMENT, settings, rig.settings.REFINER)
    result = rig.runs.sms(refined, source, spectrum=0.0)
    assert moved(result[..., :5], source[..., :5]) < 1e-5
    assert moved(result[..., 5:], source[..., 5:]) > 0.05
    everywhere = rig.settings.Refinement(floor=0.5, mask=mask)
    lifted = rig.settings.attach_once(styled, rig.settings.REFINEMENT, everywhere, rig.settings.REFINER)
    assert moved(rig.runs.sms(lifted, source, spectrum=0.0)[..., :5], source[..., :5]) > 0.05


def test_refiners_mask_of_another_aspect_is_refused_by_the_refiners_name(rig, styled, outputs):
    settings = rig.settings.Refinement(mask=torch.ones(1, 64, 64))
    refined = rig.settings.attach_once(styled, rig.settings.REFINEMENT, settings, rig.settings.REFINER)
    with pytest.raises(ValueError) as caught:
        rig.runs.sms(refined, latent(rig))
    message = str(caught.value)
    assert message.startswith("Stylize Semantic Refiner, mask: it is 64x64 pixels, the picture about 80x96.")
    assert not outputs.exists()


# going on with levels as given


def test_resumed_run_asks_the_remaining_levels(rig, styled):
    source, sigmas = latent(rig), [1.6, 1.2, 0.8, 0.4, 0.2]
    reached = source + 0.1 * rig.runs.drawn(*source.shape, seed=5)
    levels = asked_levels(rig, styled, source, sigmas, drawn=False, start=2, reached=reached)
    assert levels == pytest.approx([0.8, 0.4], rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 12, 10), (2, 4, 12, 12), (2, 16, 12, 10)])
def test_resume_latent_of_another_picture_is_refused_with_both_shapes(rig, styled, shape):
    with pytest.raises(ValueError) as caught:
        rig.runs.sms(styled, latent(rig), start=2, reached=torch.ones(shape))
    assert str(caught.value).startswith(f"resume_latent: it is {shape}, the run's latent is (2, 4, 12, 10).")


def test_resume_at_the_end_is_refused(rig, styled):
    source = latent(rig)
    with pytest.raises(ValueError, match="^resume_step: it is 4 of 4 steps"):
        rig.runs.sms(styled, source, start=4, reached=source)


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
    source = latent(rig, 1, 4, 4, 4)
    with caplog.at_level("WARNING"):
        found = rig.runs.sms(foreign(rig, kind, styled), source, steps=2)
    (message,) = [record.getMessage() for record in caplog.records if "have no effect in it" in record.getMessage()]
    assert FOREIGN[kind] in message
    assert torch.equal(found, rig.runs.sms(styled, source, steps=2))


def test_nothing_is_named_where_only_our_own_nodes_are(rig, styled, caplog):
    hold = rig.settings.attach_once(
        styled, rig.settings.SPECTRUM, rig.settings.SpectrumHold(), rig.settings.REGULARIZER
    )
    with caplog.at_level("WARNING"):
        for model in (styled, rig.sampling.acting(hold)):
            rig.runs.sms(model, latent(rig, 1, 4, 4, 4), steps=2)
    assert "have no effect" not in caplog.text


# trained fake score


def test_trained_fake_moves_the_latent_otherwise(rig, styled):
    source = latent(rig)
    trained, frozen = (rig.runs.sms(styled, source, steps=6, trained=one) for one in (True, False))
    assert torch.isfinite(trained).all()
    assert moved(trained, source) > 0.05
    assert moved(trained, frozen) > 1e-2 * moved(frozen, source)


def test_trained_fake_is_the_base_until_it_has_learned(rig, styled):
    """The first two scores see the untouched latent and, at the first, an untrained fake."""
    reached: dict[bool, list] = {}
    for trained in (True, False):
        seen = reached.setdefault(trained, [])
        callback = lambda step, x0, x, total, seen=seen: seen.append(x.clone())  # noqa: E731
        rig.runs.sms(styled, latent(rig), steps=1, trained=trained, callback=callback)
    assert torch.equal(reached[True][0], reached[False][0])


def test_trained_fake_is_deterministic(rig, styled):
    source = latent(rig)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rig.runs.sms(styled, source, trained=True)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(rig.runs.sms(styled, source, trained=True), first)
    assert not torch.equal(rig.runs.sms(styled, source, trained=True, seed=4), first)


def test_trained_fake_leaves_levels_and_noise_alone(rig, styled):
    """Its own draws come from streams of their own."""
    given = [[] for _ in range(2)]
    for trained, inputs in zip((False, True), given, strict=True):
        recorded = styled.clone()

        def note(executor, x, t, *args, inputs=inputs, **kwargs):
            if "style" in [branch.name for branch in args[3][rig.branches.CHUNKS]]:
                inputs.append((t[0].item(), x[:2].clone()))
            return executor(x, t, *args, **kwargs)

        recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.inputs", note)
        rig.runs.sms(recorded, latent(rig), trained=trained)
    assert [level for level, _ in given[0]] == [level for level, _ in given[1]]
    assert all(torch.equal(one[1], two[1]) for one, two in zip(given[0][:2], given[1][:2], strict=True))


@pytest.mark.parametrize("ending", ["success", "exception in a score", "exception in training", "interrupt"])
def test_trained_fake_leaves_nothing(rig, styled, outputs, ending):
    source = latent(rig)
    rig.runs.sms(styled, source, steps=1, trained=True)
    before, training = rig.leaks.state(styled), getattr(rig.model_management, "in_training", None)
    if ending == "success":
        rig.runs.sms(styled, source, trained=True)
    elif ending == "interrupt":
        interrupt(rig, styled, source, trained=True)
    else:
        # seven blocks a call: score of the style, score of the fake, training
        failing = failing_at(styled, rig, 1 if ending == "exception in a score" else 3)
        with pytest.raises(ZeroDivisionError):
            rig.runs.sms(failing, source, trained=True)
    assert rig.leaks.state(styled) == before
    assert before["hooks"] == [] and before["forwards"] == []
    assert all(one.grad is None for one in styled.model.parameters())
    assert styled.model.current_patcher is None
    assert getattr(rig.model_management, "in_training", None) == training
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_trained_fake_is_freed_with_its_run(rig, styled):
    """Also while ComfyUI keeps the guider as a node's output."""
    guider, source = rig.runs.guider(styled, trained=True), latent(rig, 1, 4, 8, 8)

    def run() -> int:
        with torch.inference_mode():
            guider.sample(source, source, rig.sms.StyleMatchingSampler(), torch.tensor([1.6, 0.8, 0.1]), seed=0)
        assert guider._twin is None and guider._draws is None
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    run()
    before = run()
    assert max(run() for _ in range(4)) <= before


def test_trained_fake_works_at_cfg_1(rig, styled):
    source = latent(rig)
    recorded, calls = rig.runs.recording(styled)
    trained = rig.runs.sms(recorded, source, cfg=1.0, trained=True)
    # each step: the style's row, the fake's row, the row that trains
    assert [names for _, names, _ in calls] == [("style",), ("base",), ("base",)] * 4
    assert moved(trained, rig.runs.sms(styled, source, cfg=1.0)) > 1e-2 * moved(trained, source)


def test_trained_fake_beside_a_second_checkpoint_equals_the_gate(rig, micro, styled, path):
    source = latent(rig)
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    gate, two = rig.runs.sms(styled, source, trained=True), rig.runs.sms(micro, source, second, trained=True)
    assert moved(gate, two) < 1e-2 * moved(gate, source)
    assert second.model.current_patcher is None


def test_trained_fake_below_the_lowest_published_level(rig, styled):
    """SIGMAS may leave no range to draw the training level from."""
    result = rig.runs.sms(styled, latent(rig), sigmas=torch.tensor([0.1, 0.08, 0.0]), trained=True)
    assert torch.isfinite(result).all()
