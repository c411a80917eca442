"""Percent windows of ControlNets and conditionings, read over the progress of an SMS run."""

from __future__ import annotations

import contextlib

import pytest
import torch

STEPS = 9


def counting_control(strength: float = 0.3, window: tuple[float, float] = (0.0, 1.0), previous=None):
    """A ControlNet without a network: adds a constant to the middle block and counts who asked at which step."""
    import comfy.controlnet

    class Counting(comfy.controlnet.ControlBase):
        def __init__(self):
            super().__init__()
            self.calls: list[int] = []

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            earlier = None
            if self.previous_controlnet is not None:
                earlier = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
            if t[0] > self.timestep_range[0] or t[0] < self.timestep_range[1]:
                return earlier
            self.calls.append(x_noisy.shape[0])
            self.cond_hint = torch.ones(1)
            height, width = (-(-size // 2) for size in x_noisy.shape[2:])
            residual = torch.ones(x_noisy.shape[0], 128, height, width)
            return self.control_merge({"middle": [residual]}, earlier, x_noisy.dtype)

        def copy(self):
            copy = Counting()
            self.copy_to(copy)
            copy.calls = self.calls
            return copy

    control = Counting()
    control.set_cond_hint(torch.rand(1, 3, 64, 64), strength, window)
    return control.set_previous_controlnet(previous)


def controlled(rig, control, **entries) -> dict:
    """Both conditionings with one control object, as ControlNetApplyAdvanced makes them."""
    runs = rig.runs
    return {
        "positive": runs.conditioning(1, control=control, control_apply_to_uncond=False, **entries),
        "negative": runs.conditioning(2, control=control, control_apply_to_uncond=False, **entries),
    }


@pytest.mark.parametrize("stacked", [False, True])
def test_residuals_reach_style_and_base_rows(rig, styled, tmp_path, stacked):
    path = rig.loras.saved(rig.loras.kohya(styled), tmp_path / "style.safetensors")
    control = counting_control(previous=counting_control(0.2) if stacked else None)
    x, branch = rig.runs.drawn(2, 4, 12, 10), rig.style_branch.attached(styled)
    found = rig.runs.gated(styled, branch, controlled(rig, control), rig.runs.FOUR, x)
    without = rig.runs.gated(styled, branch, rig.runs.pair(), rig.runs.FOUR, x)
    styled_stock = rig.runs.plain(rig.loras.weight_patched(styled, path, 0.8), controlled(rig, control), x)
    plain = rig.runs.plain(styled, controlled(rig, control), x)
    tolerance = 4 * rig.runs.layout_tolerance(styled, rig.runs.pair(), x)
    expected = (styled_stock["positive"], styled_stock["negative"], plain["positive"], plain["negative"])
    for one, other, bare in zip(found, expected, without, strict=True):
        assert (one - other).abs().max() <= tolerance
        assert (one - bare).abs().max() > 1e3 * tolerance


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_residuals_of_a_real_controlnet_reach_style_and_base_rows(rig, wiring_model, wiring_files, family):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    known = FAMILIES[family]
    control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, (0.0, 1.0))
    patcher, lora = wiring_model(family), str(wiring_files.path(f"wiring_lora_{family}_kohya.safetensors"))
    branch, x = rig.lora_files.load_style(lora, patcher, 0.8), rig.runs.drawn(1, 4, 8, 8)
    bare = rig.runs.pair(known.width, known.pooled)
    pair = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in bare.items()}
    found = rig.runs.gated(patcher, branch, pair, rig.runs.FOUR, x)
    plain, uncontrolled = rig.runs.plain(patcher, pair, x), rig.runs.plain(patcher, bare, x)
    styled = rig.runs.plain(rig.loras.weight_patched(patcher, lora, 0.8), pair, x)
    tolerance = 4 * rig.runs.layout_tolerance(patcher, pair, x)
    assert (plain["positive"] - uncontrolled["positive"]).abs().max() > 100 * tolerance
    assert (found[0] - styled["positive"]).abs().max() <= tolerance
    assert (found[2] - plain["positive"]).abs().max() <= tolerance
    assert (found[3] - plain["negative"]).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("window", "active"),
    [((0.0, 1.0), STEPS), ((0.0, 0.5), 5), ((0.5, 1.0), 5), ((0.0, 0.0), 1), ((0.25, 0.75), 5)],
)
def test_controlnet_window_is_read_as_progress_of_the_run(rig, styled, window, active):
    control = counting_control(window=window)
    rig.runs.sms(styled, rig.runs.drawn(1, 4, 8, 8), conditionings=controlled(rig, control), steps=STEPS)
    assert control.calls == [4] * active


def test_two_stacked_controlnets_keep_their_own_windows(rig, styled):
    first = counting_control(window=(0.0, 0.5))
    second = counting_control(window=(0.75, 1.0), previous=first)
    rig.runs.sms(styled, rig.runs.drawn(1, 4, 8, 8), conditionings=controlled(rig, second), steps=STEPS)
    assert (len(first.calls), len(second.calls)) == (5, 3)


@pytest.mark.parametrize("failing", [False, True])
def test_shared_control_object_is_left_as_it_was(rig, styled, failing):
    """ComfyUI itself does not tidy up the ControlNets of a run that failed."""
    first = counting_control(window=(0.0, 0.5))
    control = counting_control(window=(0.2, 0.9), previous=first)
    before = [dict(vars(one)) for one in (control, first)]

    def fail(q, k, v, options):
        raise ZeroDivisionError("inside the model")

    if failing:
        styled.set_model_attn2_patch(fail)
    with pytest.raises(ZeroDivisionError) if failing else contextlib.nullcontext():
        rig.runs.sms(styled, rig.runs.drawn(1, 4, 8, 8), conditionings=controlled(rig, control), steps=3)
    for one, kept in zip((control, first), before, strict=True):
        assert vars(one) == kept
        assert one.timestep_range is None and one.cond_hint is None


def test_one_control_on_both_prompts_stays_one_so_that_they_still_batch(rig):
    control = counting_control()
    windows = rig.conditioning.by_progress({"positive": [{"control": control}], "negative": [{"control": control}]})
    copies = {id(windows.conditionings[key][0]["control"]) for key in ("positive", "negative")}
    assert len(copies) == 1
    assert id(control) not in copies


def test_originals_keep_their_windows(rig):
    entries = {"positive": [{"start_percent": 0.2, "end_percent": 0.6}]}
    windows = rig.conditioning.by_progress(entries)
    assert entries["positive"] == [{"start_percent": 0.2, "end_percent": 0.6}]
    assert windows.conditionings["positive"] == [{rig.conditioning.WINDOW: (0.2, 0.6)}]


@pytest.mark.parametrize(("progress", "kept"), [(0.0, "a"), (0.4, "a"), (0.5, "ab"), (0.6, "b"), (1.0, "b")])
def test_conditioning_windows_are_read_as_progress(rig, progress, kept):
    window = rig.conditioning.WINDOW
    conditioning = [{"name": "a", window: (0.0, 0.5)}, {"name": "b", window: (0.5, 1.0)}]
    assert "".join(entry["name"] for entry in rig.conditioning.active(conditioning, progress)) == kept


def test_conditioning_is_never_left_empty(rig):
    conditioning = [{rig.conditioning.WINDOW: (0.0, 0.2)}]
    assert rig.conditioning.active(conditioning, 0.9) == conditioning


def test_without_a_progress_nothing_is_taken_out(rig):
    conditioning = [{rig.conditioning.WINDOW: (0.0, 0.2)}, {}]
    assert rig.conditioning.active(conditioning, None) == conditioning


def test_conditioning_window_acts_in_its_half_of_the_run(rig, styled):
    """A second prompt for the second half: the first half of the run must not know it."""
    runs, latent = rig.runs, rig.runs.drawn(1, 4, 8, 8)
    one, other = runs.conditioning(1, end_percent=0.5), runs.conditioning(5, start_percent=0.5)
    reached: dict[str, dict[int, torch.Tensor]] = {}
    for name, positive in (("switched", one + other), ("constant", runs.conditioning(1))):
        seen = reached.setdefault(name, {})
        conditionings = {"positive": positive, "negative": runs.conditioning(2)}
        runs.sms(
            styled,
            latent,
            conditionings=conditionings,
            steps=STEPS,
            callback=lambda step, x0, x, total, seen=seen: seen.update({step: x.clone()}),
        )
    assert all(torch.equal(reached["switched"][step], reached["constant"][step]) for step in range(4))
    assert not torch.equal(reached["switched"][STEPS - 1], reached["constant"][STEPS - 1])
