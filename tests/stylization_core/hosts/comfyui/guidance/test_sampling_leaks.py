"""Regularizer, refiner and guidance leave nothing behind in runs of ComfyUI's own samplers."""

from __future__ import annotations

import pytest
import torch


def run_to(rig, ending: str, model, source) -> None:
    if ending == "success":
        rig.ordinary.sample(model, source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            rig.ordinary.sample(model, source, callback=rig.endings.interrupting_at(1))
    else:
        blocks = {"exception in the map": 7, "exception in a step": 35}[ending]
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.sample(rig.endings.failing_after(model, blocks), source)


ENDINGS = ("success", "exception in the map", "exception in a step", "interrupt")


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_on_the_model(rig, micro, styled, path, ending, two):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8) if two else None
    made, source = rig.ordinary.everything(micro if two else styled, second), rig.runs.latent()
    rig.ordinary.sample(made, source)  # ComfyUI itself marks a module that it has loaded once
    kept, watched = source.clone(), [made, *([second] if two else [])]
    before = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    expected = rig.ordinary.sample(made, source)
    run_to(rig, ending, made, source)
    after = [rig.leaks.state(one) if one is made else rig.leaks.patcher_state(one) for one in watched]
    assert after == before
    assert before[0]["hooks"] == [] and before[0]["forwards"] == []
    for one in watched:
        assert rig.leaks.network(one)["hooks"] == []
        assert one.model.current_patcher is None  # ComfyUI's sign of a run in progress
    assert torch.equal(source, kept)
    assert torch.equal(rig.ordinary.sample(made, source), expected)


def test_clones_do_not_see_each_others_settings(rig, styled):
    source = rig.runs.latent()
    one, two = rig.ordinary.held(styled, hold=0.2), rig.ordinary.held(rig.ordinary.guided(styled, edit=False), hold=0.9)
    three = one.clone()
    plain, *alone = [rig.ordinary.sample(model, source) for model in (styled, one, two)]
    again = [rig.ordinary.sample(model, source) for model in (two, three, one, styled)]
    assert torch.equal(again[0], alone[1]) and torch.equal(again[1], alone[0]) and torch.equal(again[2], alone[0])
    assert torch.equal(again[3], plain)
    assert not torch.equal(alone[0], plain) and not torch.equal(*alone)


def test_ten_runs_leave_no_more_than_one(rig, styled):
    made, source = rig.ordinary.everything(styled), rig.runs.latent(1, 4, 8, 8)
    for _ in range(2):
        rig.ordinary.sample(made, source, sigmas=rig.ordinary.ONE_STEP)
    before, state = rig.leaks.tensors(), rig.leaks.patcher_state(made)
    for _ in range(10):
        rig.ordinary.sample(made, source, sigmas=rig.ordinary.ONE_STEP)
    assert rig.leaks.tensors() <= before
    assert rig.leaks.patcher_state(made) == state


def test_runs_neither_draw_from_nor_depend_on_the_global_generator(rig, styled):
    made, source = rig.ordinary.everything(styled), rig.runs.latent()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rig.ordinary.sample(made, source)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(rig.ordinary.sample(made, source), first)
