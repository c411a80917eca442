"""Who is asked before the wrappers around the network sees polarities too: ControlNets, hooks' wrappers."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def weighted(rig) -> type:
    import comfy.controlnet

    class Weighted(comfy.controlnet.ControlBase):
        """Counts twice for what it takes for the positive prompt, as packs do that tell ``cond_type == 1``."""

        def __init__(self, on_the_object: bool = False):
            super().__init__()
            self.seen: list[list[int]] = []
            self.latest = None
            if on_the_object:
                self.get_control = self.weighted

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return self.weighted(x_noisy, t, cond, batched_number, transformer_options)

        def weighted(self, x_noisy, t, cond, batched_number, transformer_options):
            self.latest = x_noisy.shape[0]
            self.cond_hint = torch.ones(1)
            if self.previous_controlnet is not None:
                self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
            kinds = transformer_options["cond_or_uncond"]
            assert cond["transformer_options"]["cond_or_uncond"] == kinds
            self.seen.append(list(kinds))
            gains = torch.tensor([2.0 if kind == 0 else 0.5 for kind in kinds])
            gains = gains.repeat_interleave(x_noisy.shape[0] // batched_number).view(-1, 1, 1, 1)
            height, width = (-(-size // 2) for size in x_noisy.shape[2:])
            residual = gains * torch.ones(x_noisy.shape[0], 128, height, width)
            return self.control_merge({"middle": [residual]}, None, x_noisy.dtype)

        def copy(self):
            copy = Weighted()
            self.copy_to(copy)
            copy.seen = self.seen
            return copy

    return Weighted


def controlled(rig, control) -> dict:
    return {
        key: [[tokens, {**entries, "control": control}] for tokens, entries in conditioning]
        for key, conditioning in rig.runs.pair().items()
    }


@pytest.fixture
def branch(rig, micro, path):
    return rig.lora_files.load_style(path, micro, 0.8)


@pytest.mark.parametrize("on_the_object", [False, True])
def test_style_and_base_of_a_polarity_are_treated_alike(rig, micro, stock, branch, weighted, calls, on_the_object):
    control, x = weighted(on_the_object), rig.runs.drawn(2, 4, 8, 8)
    found = rig.runs.gated(micro, branch, controlled(rig, control), rig.runs.FOUR, x)
    assert sorted(kind for kinds in control.seen for kind in kinds) == [0, 0, 1, 1]
    plain = [rig.runs.plain(model, controlled(rig, control), x) for model in (stock, micro)]
    expected = [answers[key] for answers in plain for key in ("positive", "negative")]
    tolerance = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), rig.runs.drawn(3, 4, 8, 8))
    for one, other in zip(found, expected, strict=True):
        assert rig.runs.moved(one, other) <= tolerance


def test_controlnets_behind_the_first_see_polarities_too(rig, micro, branch, weighted):
    first, second = weighted(), weighted()
    first.set_previous_controlnet(second)
    rig.runs.gated(micro, branch, controlled(rig, first), rig.runs.FOUR, rig.runs.drawn(1, 4, 8, 8))
    assert [sorted(kinds) for kinds in first.seen] == [sorted(kinds) for kinds in second.seen] == [[0, 0, 1, 1]]


def test_controlnet_is_asked_in_one_call_and_stays_the_object_it_was(rig, micro, branch, weighted):
    control = weighted()
    before = {**vars(control)}
    recorded, calls = rig.runs.recording(micro)
    rig.runs.gated(recorded, branch, controlled(rig, control), rig.runs.FOUR, rig.runs.drawn(1, 4, 8, 8))
    assert [rows for _, _, rows in calls] == [4]
    assert control.latest == 4
    assert type(control) is weighted
    assert vars(control).keys() == before.keys()
    assert isinstance(rig.controls.showing(control, rig.rows.show_polarities), weighted)


def test_clones_for_other_devices_are_shown_polarities_too(rig, weighted):
    """Newer versions of ComfyUI ask a clone of the ControlNet on each device."""

    class OnDevices(weighted):
        def get_instance_for_device(self, device):
            return self.clones.get(device, self)

    control, clone = OnDevices(), OnDevices()
    control.clones = {"other": clone}
    twin = rig.controls.showing(control, rig.rows.show_polarities)
    assert twin.get_instance_for_device("own") is twin
    options = {"cond_or_uncond": [2, 0], rig.rows.BRANCHES: (rig.runs.STYLE, rig.runs.BASE, rig.runs.BASE_NEGATIVE)}
    cond = {"transformer_options": options}
    twin.get_instance_for_device("other").get_control(torch.zeros(2, 4, 4, 4), None, cond, 2, options)
    assert clone.seen == [[1, 0]]
    assert control.seen == []


def test_method_put_on_the_control_in_between_is_asked(rig, weighted):
    control = weighted()
    twin = rig.controls.showing(control, rig.rows.show_polarities)
    twin.get_control = lambda *_args: "theirs"
    assert twin.get_control(None, None, None, 1, {"cond_or_uncond": [0]}) == "theirs"
    assert control.get_control(None, None, None, 1, {}) == "theirs"


@pytest.mark.parametrize("scope", ["all_conditioning", "hooked_only"])
def test_wrappers_that_hooks_of_a_prompt_bring_see_polarities(rig, styled, scope):
    import comfy.hooks

    seen = []

    def note(executor, *args, **kwargs):
        seen.append(rig.rows.options_of(args, kwargs)["cond_or_uncond"])
        return executor(*args, **kwargs)

    hook = comfy.hooks.TransformerOptionsHook(
        {"wrappers": {rig.WrappersMP.APPLY_MODEL: {"test.hook": [note]}}}, comfy.hooks.EnumHookScope(scope)
    )
    group = comfy.hooks.HookGroup()
    group.add(hook)
    conditionings = comfy.hooks.set_hooks_for_conditioning
    pair = {key: conditionings(value, group) for key, value in rig.runs.pair().items()}
    rig.runs.sms(styled, rig.runs.latent(1, 4, 8, 8), conditionings=pair, steps=1)
    assert seen
    assert {kind for kinds in seen for kind in kinds} == {0, 1}
