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
